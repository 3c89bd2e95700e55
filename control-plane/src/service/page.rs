//! Pages of a list (AIP-158): sizes, and tokens that name the last thing seen.
//!
//! A token stays good while the list changes: the next page begins after that name, whether it still exists
//! or not.

use std::fmt::Write as _;

use loden_proto::InvalidValue;
use prost::Message;

/// Size of a page when the request does not say.
const USUAL: usize = 100;
/// Largest page.
const LARGEST: usize = 1000;
/// A page ends before the thing that would make it larger than this, in bytes: clients take 4 MiB.
const BYTES: usize = 1 << 20;

/// Where a page begins and how long it is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Page {
    /// What is listed, as in the request.
    parent: String,
    /// Name of the last thing on the page before.
    pub(super) after: Option<String>,
    pub(super) size: usize,
}

impl Page {
    /// From a request's fields; `parent` is empty for a list of everything.
    pub(super) fn new(parent: &str, page_size: i32, page_token: &str) -> Result<Self, InvalidValue> {
        let size = match usize::try_from(page_size) {
            Ok(0) => USUAL,
            Ok(size) if size <= LARGEST => size,
            _ => {
                let rule = format!("must be 0 to {LARGEST}");
                return Err(InvalidValue::new(page_size, rule).at("page_size"));
            }
        };
        let after = if page_token.is_empty() {
            None
        } else {
            let refuse = || {
                let rule = "must be the next_page_token of the same list";
                InvalidValue::new(page_token, rule).at("page_token")
            };
            let text = decode(page_token).ok_or_else(refuse)?;
            let (of, after) = text.split_once('\n').ok_or_else(refuse)?;
            if of != parent {
                return Err(refuse());
            }
            Some(after.to_owned())
        };
        Ok(Self { parent: parent.to_owned(), after, size })
    }

    /// The position as a name of the list's kind.
    pub(super) fn after<T>(
        &self,
        parse: impl FnOnce(&str) -> Result<T, InvalidValue>,
    ) -> Result<Option<T>, InvalidValue> {
        self.after.as_deref().map(parse).transpose().map_err(|invalid| invalid.at("page_token"))
    }

    /// Takes one page of what follows, as messages, and the token of the next one, empty on the last.
    pub(super) fn take<T, M: Message>(
        &self,
        following: impl Iterator<Item = T>,
        name: impl FnOnce(&T) -> String,
        mut message: impl FnMut(&T) -> M,
    ) -> (Vec<M>, String) {
        let (mut messages, mut bytes) = (Vec::new(), 0);
        let (mut last, mut more) = (None, false);
        for thing in following {
            let message = message(&thing);
            bytes += message.encoded_len();
            // The first one is on the page in any case.
            more = messages.len() == self.size || (bytes > BYTES && !messages.is_empty());
            if more {
                break;
            }
            messages.push(message);
            last = Some(thing);
        }
        let next = last.filter(|_| more).map(|last| self.token(&name(&last)));
        (messages, next.unwrap_or_default())
    }

    /// The token of the page that begins after this name.
    pub(super) fn token(&self, last: &str) -> String {
        encode(&format!("{}\n{last}", self.parent))
    }
}

/// Opaque to clients: hexadecimal digits.
fn encode(text: &str) -> String {
    text.bytes().fold(String::with_capacity(2 * text.len()), |mut token, byte| {
        // Writing to a string does not fail.
        let _ = write!(token, "{byte:02x}");
        token
    })
}

fn decode(token: &str) -> Option<String> {
    let digits = token.as_bytes();
    if !digits.len().is_multiple_of(2) || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let bytes = digits.chunks_exact(2).map(|pair| {
        let pair = std::str::from_utf8(pair).ok()?;
        u8::from_str_radix(pair, 16).ok()
    });
    String::from_utf8(bytes.collect::<Option<_>>()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(parent: &str, size: i32, token: &str) -> Page {
        Page::new(parent, size, token).unwrap()
    }

    fn list(all: &[&str], page: &Page) -> (Vec<String>, String) {
        let later =
            all.iter().copied().filter(|name| page.after.as_deref().is_none_or(|after| *name > after));
        page.take(later, |name| (*name).to_owned(), |name| (*name).to_owned())
    }

    #[test]
    fn pages_join_to_the_list_and_the_token_outlives_its_name() {
        let all = ["a", "b", "c", "d", "e"];
        let first = page("networks/-", 2, "");
        let (items, token) = list(&all, &first);
        assert_eq!(items, ["a", "b"]);
        let without_b = ["a", "c", "d", "e"];
        let second = page("networks/-", 2, &token);
        let (items, token) = list(&without_b, &second);
        assert_eq!(items, ["c", "d"]);
        let third = page("networks/-", 2, &token);
        assert_eq!(list(&without_b, &third), (vec!["e".to_owned()], String::new()));
    }

    #[test]
    fn a_page_ends_before_it_is_too_large_for_a_client_but_has_one_thing_at_least() {
        let large = |first: char| first.to_string().repeat(BYTES / 2 - 10);
        let (a, b, c) = (large('a'), large('b'), large('c'));
        let huge = "d".repeat(3 * BYTES);
        let all = [a.as_str(), &b, &c, &huge, "e"];
        let mut pages = Vec::new();
        let mut token = String::new();
        loop {
            let (items, next) = list(&all, &page("", 1000, &token));
            pages.push(items.iter().map(|item| &item[..1]).collect::<String>());
            token = next;
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(pages, ["ab", "c", "d", "e"]);
    }

    #[test]
    fn an_exact_page_is_the_last() {
        let page = page("", 2, "");
        assert_eq!(list(&["a", "b"], &page), (vec!["a".to_owned(), "b".to_owned()], String::new()));
    }

    #[test]
    fn sizes_and_tokens_are_checked() {
        assert_eq!(page("", 0, "").size, USUAL);
        assert_eq!(page("", 1000, "").size, 1000);
        for size in [-1, 1001, i32::MAX] {
            assert_eq!(Page::new("", size, "").unwrap_err().field, "page_size");
        }
        let (_, token) = list(&["a", "b"], &page("networks/a", 1, ""));
        for (parent, token) in
            [("networks/b", token.as_str()), ("", "zz"), ("", "616"), ("", "ff"), ("", "61")]
        {
            assert_eq!(Page::new(parent, 1, token).unwrap_err().field, "page_token", "{token}");
        }
    }
}
