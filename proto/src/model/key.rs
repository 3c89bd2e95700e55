//! What a sender shows to a UDP tunnel: a secret between the peers of a network.

use std::fmt;
use std::num::NonZeroU64;

use serde::{Deserialize, Serialize};

use crate::InvalidValue;

/// Proves that a sender was told of the receiver by the control plane: 64 random bits of the receiver, never 0. An
/// outer address alone is forged easily.
///
/// It is not shown, nor compared for order, so that it gets into no log.
#[derive(Clone, Copy, Eq, Hash, PartialEq, Deserialize, Serialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct Key(NonZeroU64);

impl Key {
    /// The number, for the packets that show it and for those who may know it.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(secret)")
    }
}

impl TryFrom<u64> for Key {
    type Error = InvalidValue;

    fn try_from(raw: u64) -> Result<Self, InvalidValue> {
        let key = NonZeroU64::new(raw).map(Self);
        key.ok_or_else(|| InvalidValue::new(0, "must be 64 bits at random, never all 0"))
    }
}

impl From<Key> for u64 {
    fn from(key: Key) -> Self {
        key.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_kept_and_not_shown() {
        let key = Key::try_from(0x0123_4567_89ab_cdef).unwrap();
        assert_eq!(key.get(), 0x0123_4567_89ab_cdef);
        assert_eq!(format!("{:?}", Some(key)), "Some(Key(secret))");
        assert_eq!(Key::try_from(0).unwrap_err().to_string(), "\"0\" must be 64 bits at random, never all 0");
    }
}
