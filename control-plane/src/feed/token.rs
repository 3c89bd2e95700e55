//! Resume tokens: which history a client has followed, how far, and proof that we said so.
//!
//! ```text
//!  incarnation u128 | revision u64 | hash u64 | HMAC-SHA256 over network and the rest, 16 bytes
//! ```
//!
//! All integers are big endian. The tag is an authenticator, not a secret: whoever reads a token
//! learns nothing, whoever makes one up cannot make the server believe that its store was lost.

use std::fmt::{self, Debug};

use bytes::Bytes;
use loden_proto::names::NetworkId;
use ring::hmac;

/// A place in a store's history: its revision and the rolling hash of every batch up to it.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Point {
    /// The store's revision.
    pub revision: u64,
    /// The store's rolling hash at that revision.
    pub hash: u64,
}

/// What a token says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Token {
    /// The life of the store in which it was made.
    pub incarnation: u128,
    /// Up to where its holder has followed.
    pub point: Point,
}

impl Token {
    /// What a sealed token says, whoever made it; `None` if it has not the length of one.
    #[must_use]
    pub fn unproven(sealed: &[u8]) -> Option<Self> {
        if sealed.len() != TOKEN_BYTES {
            return None;
        }
        let (incarnation, rest) = sealed.split_first_chunk::<16>()?;
        let (revision, rest) = rest.split_first_chunk::<8>()?;
        let (hash, _) = rest.split_first_chunk::<8>()?;
        Some(Self {
            incarnation: u128::from_be_bytes(*incarnation),
            point: Point { revision: u64::from_be_bytes(*revision), hash: u64::from_be_bytes(*hash) },
        })
    }
}

/// Length of a token in bytes.
pub const TOKEN_BYTES: usize = PAYLOAD + TAG;

const PAYLOAD: usize = 32;
/// HMAC-SHA256 truncated to half its length (RFC 2104 §5).
const TAG: usize = 16;

/// The key of the authenticator. It outlives the store, so that a lost store is noticed.
#[derive(Clone)]
pub struct TokenKey(hmac::Key);

impl TokenKey {
    /// A key made of secret bytes; 32 random ones are right (RFC 2104 §3).
    #[must_use]
    pub fn new(secret: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    /// The bytes that a client of `network` is given.
    #[must_use]
    pub fn seal(&self, network: &NetworkId, token: Token) -> Bytes {
        let payload = payload(token);
        let mut sealed = Vec::with_capacity(TOKEN_BYTES);
        sealed.extend_from_slice(&payload);
        sealed.extend_from_slice(&self.tag(network, &payload));
        sealed.into()
    }

    /// Reads what [`TokenKey::seal`] made for the same network; `None` if it did not make it.
    #[must_use]
    pub fn open(&self, network: &NetworkId, sealed: &[u8]) -> Option<Token> {
        let (payload, tag) = sealed.split_first_chunk::<PAYLOAD>()?;
        if !constant_time_eq(tag, &self.tag(network, payload)) {
            return None;
        }
        Token::unproven(sealed)
    }

    fn tag(&self, network: &NetworkId, payload: &[u8; PAYLOAD]) -> [u8; TAG] {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(payload);
        context.update(network.as_str().as_bytes());
        let full = context.sign();
        let mut tag = [0; TAG];
        tag.copy_from_slice(&full.as_ref()[..TAG]);
        tag
    }
}

impl Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey")
    }
}

fn payload(token: Token) -> [u8; PAYLOAD] {
    let mut payload = [0; PAYLOAD];
    payload[..16].copy_from_slice(&token.incarnation.to_be_bytes());
    payload[16..24].copy_from_slice(&token.point.revision.to_be_bytes());
    payload[24..].copy_from_slice(&token.point.hash.to_be_bytes());
    payload
}

/// Compares without telling by its duration where the first difference is.
fn constant_time_eq(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differing, (a, b)| differing | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(id: &str) -> NetworkId {
        id.parse().unwrap()
    }

    const TOKEN: Token = Token { incarnation: 7 << 100, point: Point { revision: 9, hash: u64::MAX } };

    #[test]
    fn a_token_opens_only_with_its_key_and_for_its_network() {
        let key = TokenKey::new(b"one");
        let sealed = key.seal(&network("blue"), TOKEN);
        assert_eq!(sealed.len(), TOKEN_BYTES);
        assert_eq!(key.open(&network("blue"), &sealed), Some(TOKEN));
        assert_eq!(key.open(&network("red"), &sealed), None);
        assert_eq!(TokenKey::new(b"two").open(&network("blue"), &sealed), None);
        assert_eq!(Token::unproven(&sealed), Some(TOKEN));
        assert_eq!(Token::unproven(&sealed[1..]), None);
    }

    #[test]
    fn a_token_with_any_bit_flipped_or_byte_missing_does_not_open() {
        let key = TokenKey::new(b"one");
        let sealed = key.seal(&network("blue"), TOKEN);
        for bit in 0..TOKEN_BYTES * 8 {
            let mut forged = sealed.to_vec();
            forged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(key.open(&network("blue"), &forged), None, "bit {bit}");
        }
        for len in 0..TOKEN_BYTES {
            assert_eq!(key.open(&network("blue"), &sealed[..len]), None, "{len} bytes");
        }
    }
}
