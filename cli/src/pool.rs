//! Pools as they are typed and shown: `10.244.0.0/16:24`.

use std::fmt::{self, Display};
use std::str::FromStr;

use loden_proto::v1;
use serde::Serialize;

/// A CIDR and the prefix length of a node's part of it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub(crate) struct Pool {
    pub(crate) cidr: String,
    pub(crate) node_prefix_len: Option<u32>,
}

impl FromStr for Pool {
    type Err = String;

    /// Only takes the text apart; the rules are the control plane's.
    fn from_str(text: &str) -> Result<Self, String> {
        let form = || format!("{text:?} must have the form CIDR or CIDR:LEN, as 10.244.0.0/16:24");
        let (address, lengths) = text.split_once('/').ok_or_else(form)?;
        let (length, node_prefix_len) = match lengths.split_once(':') {
            Some((length, node)) => (length, Some(node.parse().map_err(|_| form())?)),
            None => (lengths, None),
        };
        Ok(Self { cidr: format!("{address}/{length}"), node_prefix_len })
    }
}

impl Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.cidr)?;
        self.node_prefix_len.map_or(Ok(()), |len| write!(f, ":{len}"))
    }
}

impl From<v1::Pool> for Pool {
    fn from(wire: v1::Pool) -> Self {
        Self { cidr: wire.cidr, node_prefix_len: wire.node_prefix_len }
    }
}

impl From<Pool> for v1::Pool {
    fn from(pool: Pool) -> Self {
        Self { cidr: pool.cidr, node_prefix_len: pool.node_prefix_len }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_round_trip() {
        for text in ["10.244.0.0/16", "10.244.0.0/16:24", "fd00:10::/48:64", "::/0"] {
            assert_eq!(text.parse::<Pool>().unwrap().to_string(), text);
        }
        let pool: Pool = "fd00:10::/48:64".parse().unwrap();
        assert_eq!((pool.cidr.as_str(), pool.node_prefix_len), ("fd00:10::/48", Some(64)));
    }

    #[test]
    fn other_forms_are_refused() {
        for text in ["10.244.0.0", "10.244.0.0/16:", "10.244.0.0/16:x", ""] {
            assert!(text.parse::<Pool>().unwrap_err().contains("CIDR:LEN"), "{text}");
        }
    }
}
