//! The one error of input: which field, which value, which rule.

use std::fmt::{self, Display};

use crate::text::escaped;

/// A value that breaks a rule, in words for the person who sent it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct InvalidValue {
    /// Path of the field, as in the request: `network.pools[0].cidr`. Empty
    /// until somebody who knows the path has added it.
    pub field: String,
    /// The value as it was sent, shortened when it is long, its control characters escaped.
    pub value: String,
    /// What would have been right.
    pub rule: String,
}

impl InvalidValue {
    /// Longest part of a value that is repeated in a message, in characters.
    const SHOWN: usize = 120;

    /// `value` breaks `rule`.
    pub fn new(value: impl Display, rule: impl Into<String>) -> Self {
        let mut value = escaped(&value.to_string()).into_owned();
        if let Some((cut, _)) = value.char_indices().nth(Self::SHOWN) {
            value.truncate(cut);
            value.push('…');
        }
        Self { field: String::new(), value, rule: rule.into() }
    }

    /// A required field is not there.
    pub fn missing(field: impl Into<String>) -> Self {
        Self::new("", "is required").at(field)
    }

    /// The same, one level up: `at("cidr").at("pools[0]")` is `pools[0].cidr`.
    #[must_use]
    pub fn at(mut self, field: impl Into<String>) -> Self {
        let outer = field.into();
        self.field = if self.field.is_empty() { outer } else { format!("{outer}.{}", self.field) };
        self
    }
}

impl Display for InvalidValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        if self.value.is_empty() {
            write!(f, "{}", self.rule)
        } else {
            write!(f, "\"{}\" {}", self.value, self.rule)
        }
    }
}

impl std::error::Error for InvalidValue {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_field_value_and_rule() {
        let error = InvalidValue::new("10.0.0.1/8", "has host bits set").at("cidr").at("network.pools[0]");
        assert_eq!(error.to_string(), "network.pools[0].cidr: \"10.0.0.1/8\" has host bits set");
    }

    #[test]
    fn a_long_value_is_cut_at_a_character() {
        let error = InvalidValue::new("ä".repeat(500), "is too long");
        assert_eq!(error.value.chars().count(), InvalidValue::SHOWN + 1);
    }
}
