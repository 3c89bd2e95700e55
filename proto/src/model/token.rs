//! What lets a host join: `id.secret.root`.

use std::fmt::{self, Display};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::InvalidValue;

/// A token's name: 8 hexadecimal digits. No secret.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct TokenId(pub u32);

/// What the holder of a token has to know: 128 bits at random.
///
/// It is not shown, so that it gets into no log.
#[derive(Clone, Copy, Eq, PartialEq)]
pub struct Secret(pub [u8; 16]);

/// SHA-256 of the public key of a CA (SubjectPublicKeyInfo, DER; RFC 5280 §4.1.2.7).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RootHash(pub [u8; 32]);

/// A token as a host gets it: it shows the secret to whom it knows by the CA.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct JoinToken {
    /// Which.
    pub id: TokenId,
    /// What proves that it is the holder's.
    pub secret: Secret,
    /// By which the holder knows the control plane.
    pub root: RootHash,
}

impl JoinToken {
    const FORM: &str = "must be a token: 8, 32 and 64 hexadecimal digits with dots between";
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl FromStr for TokenId {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let bytes = digits(text).map(u32::from_be_bytes).map(Self);
        bytes.ok_or_else(|| InvalidValue::new(text, "must be 8 hexadecimal digits, in lower case"))
    }
}

impl TryFrom<String> for TokenId {
    type Error = InvalidValue;

    fn try_from(text: String) -> Result<Self, InvalidValue> {
        text.parse()
    }
}

impl From<TokenId> for String {
    fn from(id: TokenId) -> Self {
        id.to_string()
    }
}

/// As hexadecimal digits.
impl Display for RootHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(f, &self.0)
    }
}

/// With its secret: it is for whom it is given to.
impl Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.", self.id)?;
        hex(f, &self.secret.0)?;
        write!(f, ".{}", self.root)
    }
}

impl FromStr for JoinToken {
    type Err = InvalidValue;

    /// The error does not repeat the text, which may be nearly right.
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let parsed = || {
            let mut parts = text.split('.');
            let id = digits(parts.next()?).map(u32::from_be_bytes).map(TokenId)?;
            let secret = digits(parts.next()?).map(Secret)?;
            let root = digits(parts.next()?).map(RootHash)?;
            parts.next().is_none().then_some(Self { id, secret, root })
        };
        parsed().ok_or_else(|| InvalidValue::new("…", Self::FORM))
    }
}

fn hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

/// Bytes from as many pairs of lower-case hexadecimal digits.
fn digits<const N: usize>(text: &str) -> Option<[u8; N]> {
    let lower = |digit: u8| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit);
    if text.len() != 2 * N || !text.bytes().all(lower) {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> JoinToken {
        JoinToken { id: TokenId(0x0a1b_2c3d), secret: Secret([0xab; 16]), root: RootHash([1; 32]) }
    }

    #[test]
    fn a_token_is_text_and_back() {
        let text = token().to_string();
        assert_eq!(text, format!("0a1b2c3d.{}.{}", "ab".repeat(16), "01".repeat(32)));
        assert_eq!(text.parse(), Ok(token()));
        assert!(!format!("{:?}", token()).contains("ab"), "its secret is not shown");
    }

    #[test]
    fn another_form_is_refused_and_not_repeated() {
        let text = token().to_string();
        let wrong =
            ["", ".", &text[1..], &text.to_uppercase(), &format!("{text}."), &text.replace("ab", "ä")];
        for text in wrong {
            let error = text.parse::<JoinToken>().unwrap_err().to_string();
            assert_eq!(error, format!("\"…\" {}", JoinToken::FORM));
        }
        assert!("0A1B2C3D".parse::<TokenId>().is_err() && "a1b2c3d".parse::<TokenId>().is_err());
    }
}
