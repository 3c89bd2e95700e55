//! The host's packet filter: a table of our own that masquerades, and what the others drop.
//!
//! ```text
//!  members ─▶ masquerade (pure) ─▶ text ──nft -f──▶ table inet loden ◀── compared after each event
//!  tables of others ──nft -j──▶ chains ─▶ obstacles, insertions (pure) ─▶ status, rules of ours in them
//! ```
//!
//! Ours are that one table, and rules whose comment begins with [`chains::OURS`]. Nothing else is
//! ever touched. What iptables-legacy holds cannot be seen by nft, and so not by us.

pub mod chains;
mod fake;
mod insert;
mod listing;
pub mod masquerade;
mod monitor;
mod nft;
mod obstacle;

use std::io;

use tokio::sync::mpsc;

pub use chains::Chain;
pub use fake::FakeFirewall;
pub use insert::{Edit, insertions};
pub use masquerade::Member;
pub use nft::Nft;
pub use obstacle::{Obstacle, Traffic, obstacles};

/// A host's packet filter.
pub trait Firewall: Send + 'static {
    /// Our own table as the filter lists it; `None`: there is none.
    fn table(&mut self) -> impl Future<Output = Result<Option<String>, FirewallError>> + Send;

    /// Puts our own table in place as a whole, in one transaction: packets meet the old one or the
    /// new one. `None` removes it.
    fn replace(&mut self, table: Option<&str>) -> impl Future<Output = Result<(), FirewallError>> + Send;

    /// The tables of others that filter packets, with all their chains.
    fn others(&mut self) -> impl Future<Output = Result<Vec<Chain>, FirewallError>> + Send;

    /// Makes edits of ours in a chain of others, all or none.
    fn edit(&mut self, edits: &[Edit]) -> impl Future<Output = Result<(), FirewallError>> + Send;

    /// Removes everything of ours, in our own table and in those of others.
    ///
    /// # Errors
    /// When something of it cannot be seen or removed; the rest may be gone.
    fn clear(&mut self) -> impl Future<Output = Result<Vec<String>, FirewallError>> + Send
    where
        Self: Sized,
    {
        async {
            let mut removed = Vec::new();
            if self.table().await?.is_some() {
                self.replace(None).await?;
                removed.push(format!("nftables table inet {}", masquerade::TABLE));
            }
            let chains = self.others().await?;
            for (chain, edits) in insertions(&chains, &[], false) {
                self.edit(&edits).await?;
                removed.push(format!("{} rules in {chain}", edits.len()));
            }
            Ok(removed)
        }
    }

    /// Begins to listen: what happens after this returns is announced.
    fn hints(&mut self) -> impl Future<Output = Result<FirewallHints, FirewallError>> + Send;
}

/// A stream of hints. It ends after an overrun, and when nobody can listen any more: then listen anew.
pub type FirewallHints = mpsc::Receiver<FirewallHint>;

/// Something happened in the packet filter.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum FirewallHint {
    /// In our own table.
    Ours,
    /// In a table of somebody else.
    Others,
    /// Notifications were lost: anything may have happened.
    Overrun,
}

impl FirewallError {
    /// Whether there is no packet filter that could be looked at.
    #[must_use]
    pub const fn is_absence(&self) -> bool {
        matches!(self, Self::NoNft | Self::NoNftables)
    }
}

/// What a packet filter could not do.
#[derive(Debug, thiserror::Error)]
pub enum FirewallError {
    /// The program that speaks for it is missing.
    #[error("nft is not installed; its package is usually called nftables")]
    NoNft,
    /// There is nothing that it could speak to, and so nobody who drops by it.
    #[error("the kernel has no nftables")]
    NoNftables,
    /// It could not be run, or the kernel lets nobody listen.
    #[error("nft cannot be used")]
    Io(#[from] io::Error),
    /// It refused.
    #[error("nft refused: {0}")]
    Refused(String),
    /// What it listed makes no sense.
    #[error("what nft lists cannot be read: {0}")]
    Unreadable(String),
    /// It has not answered for a long time.
    #[error("nft does not answer")]
    Silent,
}
