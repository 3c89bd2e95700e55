//! Listens to what the kernel announces of nftables, and makes hints of it.
//!
//! ```text
//!  netlink header │ nfgenmsg: family │ attributes, the first kind of which is the table's name
//! ```
//!
//! So says every message of `NFNLGRP_NFTABLES` but that of a new generation, which ends each batch
//! (`linux/netfilter/nf_tables.h`).

use std::collections::BTreeSet;
use std::io;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use tokio::sync::mpsc;

use super::masquerade::TABLE;
use super::{FirewallError, FirewallHint};
use crate::socket::{enlarge, listen};

/// `NFNLGRP_NFTABLES`.
const GROUP: u32 = 7;
/// `NFNL_SUBSYS_NFTABLES`, the upper half of a message's type.
const SUBSYSTEM: u16 = 10;
/// `NFT_MSG_NEWGEN`, which is about no table.
const NEW_GENERATION: u16 = 15;
/// `NFPROTO_INET`.
const INET: u8 = 1;
/// `NFTA_TABLE_NAME`, `NFTA_RULE_TABLE` and so on.
const TABLE_NAME: u16 = 1;
/// `struct nlmsghdr` and `struct nfgenmsg`.
const HEADER: usize = 16;
const NFGENMSG: usize = 4;
/// A rule set may be loaded at once.
const RECEIVE_BUFFER: usize = 4 * 1024 * 1024;

/// A socket that listens.
#[derive(Debug)]
pub(super) struct Monitor(Socket);

impl Monitor {
    /// Listens in the network namespace of the calling thread.
    pub(super) fn open() -> Result<Self, FirewallError> {
        let mut socket = Socket::new(NETLINK_NETFILTER).map_err(|error| match error.raw_os_error() {
            Some(libc::EPROTONOSUPPORT) => FirewallError::NoNftables,
            _ => error.into(),
        })?;
        socket.bind(&SocketAddr::new(0, 0))?;
        socket.add_membership(GROUP)?;
        socket.set_non_blocking(true)?;
        enlarge(&socket, RECEIVE_BUFFER)?;
        Ok(Self(socket))
    }

    /// Sends hints until nobody listens any more, or until an overrun.
    pub(super) async fn run(self, hints: mpsc::Sender<FirewallHint>) -> io::Result<()> {
        listen(self.0, hints, FirewallHint::Overrun, read).await
    }
}

/// The hints of a datagram, each once. What cannot be read may be anything.
fn read(mut bytes: &[u8]) -> BTreeSet<FirewallHint> {
    let mut hints = BTreeSet::new();
    while bytes.len() >= HEADER {
        let length = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize;
        let kind = u16::from_ne_bytes([bytes[4], bytes[5]]);
        let Some(message) = bytes.get(HEADER..length) else {
            hints.insert(FirewallHint::Overrun);
            break;
        };
        hints.extend(hint(kind, message));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    hints
}

fn hint(kind: u16, message: &[u8]) -> Option<FirewallHint> {
    if kind >> 8 != SUBSYSTEM || kind & 0xff == NEW_GENERATION {
        return None;
    }
    let table = message.get(NFGENMSG..).and_then(table_name);
    let Some(table) = table else { return Some(FirewallHint::Overrun) };
    let ours = message[0] == INET && table == TABLE.as_bytes();
    Some(if ours { FirewallHint::Ours } else { FirewallHint::Others })
}

fn table_name(mut attributes: &[u8]) -> Option<&[u8]> {
    /// The two upper bits are flags.
    const KIND: u16 = 0x3fff;
    while attributes.len() >= 4 {
        let length = usize::from(u16::from_ne_bytes([attributes[0], attributes[1]]));
        let kind = u16::from_ne_bytes([attributes[2], attributes[3]]) & KIND;
        let value = attributes.get(4..length)?;
        if kind == TABLE_NAME {
            return Some(value.strip_suffix(b"\0").unwrap_or(value));
        }
        attributes = attributes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, family: u8, table: &str) -> Vec<u8> {
        let name = [table.as_bytes(), b"\0"].concat();
        let mut bytes = vec![0; HEADER];
        bytes.extend([family, 0, 0, 0]);
        bytes.extend((4 + name.len() as u16).to_ne_bytes());
        bytes.extend(TABLE_NAME.to_ne_bytes());
        bytes.extend(name);
        let length = bytes.len() as u32;
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        bytes[4..6].copy_from_slice(&(SUBSYSTEM << 8 | kind).to_ne_bytes());
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn hints(bytes: &[u8]) -> Vec<FirewallHint> {
        read(bytes).into_iter().collect()
    }

    #[test]
    fn our_table_is_told_from_those_of_others() {
        assert_eq!(hints(&message(6, INET, "loden")), [FirewallHint::Ours]);
        assert_eq!(hints(&message(6, 2, "loden")), [FirewallHint::Others]);
        assert_eq!(hints(&message(6, INET, "loden2")), [FirewallHint::Others]);
        let both = [message(2, INET, "loden"), message(2, 2, "filter"), message(8, 2, "filter")].concat();
        assert_eq!(hints(&both), [FirewallHint::Ours, FirewallHint::Others]);
        assert_eq!(hints(&message(NEW_GENERATION, INET, "x")), []);
    }

    #[test]
    fn what_is_torn_may_be_anything() {
        let mut torn = message(6, INET, "loden");
        torn[..4].copy_from_slice(&400u32.to_ne_bytes());
        assert_eq!(hints(&torn), [FirewallHint::Overrun]);
        assert_eq!(hints(&message(6, INET, "loden")[..8]), []);
    }
}
