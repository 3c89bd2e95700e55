//! Words of others that people read: what would steer a terminal does not pass.

use std::borrow::Cow;

use crate::InvalidValue;

/// The text with each control character as an escape sequence: `\n`, `\u{1b}`.
#[must_use]
pub fn escaped(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return text.into();
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if c.is_control() {
            escaped.extend(c.escape_default());
        } else {
            escaped.push(c);
        }
    }
    escaped.into()
}

/// That nobody has to escape the text.
///
/// # Errors
/// It has a control character.
pub fn check(text: &str) -> Result<(), InvalidValue> {
    if text.contains(char::is_control) {
        return Err(InvalidValue::new(text, "must have no control characters"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped_and_nothing_else_is() {
        assert_eq!(escaped("\"ä\" \\ 'x'"), "\"ä\" \\ 'x'");
        assert_eq!(escaped("a\n\u{1b}[2J\u{7f}\u{9b}"), r"a\n\u{1b}[2J\u{7f}\u{9b}");
    }

    #[test]
    fn a_text_with_control_characters_is_refused_and_shown_without() {
        check("as it should be … ä").unwrap();
        let invalid = check("\u{1b}c").unwrap_err();
        assert_eq!(invalid.to_string(), r#""\u{1b}c" must have no control characters"#);
    }
}
