//! What the tables of others drop of our packets, and our rules in them where they are asked for.

use std::time::Duration;

use loden_datapath::firewall::{Edit, Firewall, FirewallError, Obstacle, insertions, obstacles};
use loden_proto::names::NetworkId;
use loden_transport::explain;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::wanted::Wanted;

/// A look waits for the rest of what somebody is changing,
const FLOCK: Duration = Duration::from_millis(200);
/// and is this far from the last one: some programs never cease to change rules, and large tables take
/// their time to be listed.
const APART: Duration = Duration::from_secs(2);

pub(super) struct Others {
    insert: bool,
    obstacles: Vec<Obstacle>,
    /// What could not be looked at or inserted.
    troubles: Vec<String>,
    due: Option<Instant>,
    last: Option<Instant>,
}

impl Others {
    pub(super) const fn new(insert: bool) -> Self {
        Self { insert, obstacles: Vec::new(), troubles: Vec::new(), due: None, last: None }
    }

    pub(super) const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Something of ours has to pass that had not.
    pub(super) fn changed(&mut self) {
        let soon = Instant::now() + FLOCK;
        self.due = Some(self.due.map_or(soon, |due| due.min(soon)));
    }

    /// Somebody has changed something.
    pub(super) fn hinted(&mut self) {
        if self.due.is_none() {
            let soon = Instant::now() + FLOCK;
            self.due = Some(self.last.map_or(soon, |last| soon.max(last + APART)));
        }
    }

    pub(super) async fn look(&mut self, firewall: &mut impl Firewall, wanted: &Wanted) {
        self.due = None;
        self.troubles.clear();
        match self.found(firewall, wanted).await {
            Ok(obstacles) => self.obstacles = obstacles,
            // Where there is no nft, there may be no tables either.
            Err(error) if error.is_absence() => {
                debug!(%error, "what others drop cannot be seen");
                self.obstacles.clear();
            }
            Err(error) => {
                self.troubles.push(format!("what the packet filter drops is not known: {}", explain(&error)))
            }
        }
        self.last = Some(Instant::now());
    }

    async fn found(
        &mut self,
        firewall: &mut impl Firewall,
        wanted: &Wanted,
    ) -> Result<Vec<Obstacle>, FirewallError> {
        let mut chains = firewall.others().await?;
        let mut edited = false;
        for (chain, mut edits) in insertions(&chains, &wanted.traffic, self.insert) {
            if !wanted.all_known {
                // What is there may be of a network that is not known yet.
                edits.retain(|edit| matches!(edit, Edit::Insert(..)));
            }
            if edits.is_empty() {
                continue;
            }
            edited = true;
            match firewall.edit(&edits).await {
                Ok(()) => info!(%chain, edits = edits.len(), "rules of ours changed in a chain of others"),
                Err(error) => {
                    let trouble =
                        format!("the rules of ours in {chain} cannot be changed: {}", explain(&error));
                    warn!("{trouble}");
                    self.troubles.push(trouble);
                }
            }
        }
        if edited {
            chains = firewall.others().await?;
        }
        Ok(obstacles(&chains, &wanted.traffic))
    }

    /// What an operator should know.
    pub(super) fn warnings(&self, network: &NetworkId) -> Vec<String> {
        let own = self.obstacles.iter().filter(|obstacle| obstacle.network == *network);
        let told = own.map(|obstacle| match self.insert {
            true => obstacle.to_string(),
            false => format!("{obstacle}, or let the agent do it with --firewall-insert"),
        });
        told.chain(self.troubles.iter().cloned()).collect()
    }
}
