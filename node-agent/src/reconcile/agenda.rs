//! When to look at the kernel and the host again: after hints, after failures,
//! and without any cause.

use std::time::Duration;

use ipnet::IpNet;
use loden_datapath::{Datapath, Hint, Hints, Host};
use loden_transport::explain;
use tokio::time::Instant;
use tracing::warn;

use super::Reconcile;
use crate::upkeep::{LONGEST_WAIT, next_audit, next_try};

/// Hints come in flocks; a pass waits for the rest of the flock.
const FLOCK: Duration = Duration::from_millis(10);
/// Passes for drift that never ends are at least this far apart.
const FIGHT: Duration = Duration::from_secs(1);
/// Addresses are taken away and given back by DHCP clients.
const ADDRESSES: Duration = Duration::from_millis(200);

impl<D: Datapath + Host> Reconcile<D> {
    pub(super) async fn listen(&mut self) -> Option<Hints> {
        self.listened = Some(Instant::now());
        match self.program.datapath.hints().await {
            Ok(hints) => Some(hints),
            Err(error) => {
                warn!(error = explain(&error), "kernel notifications cannot be heard");
                self.listen_due = Some(Instant::now() + LONGEST_WAIT);
                None
            }
        }
    }

    /// Listens anew: at once, unless that was just done.
    pub(super) fn listen_soon(&mut self) {
        let now = Instant::now();
        self.listen_due = Some(self.listened.map_or(now, |last| (last + FIGHT).max(now)));
    }

    pub(super) fn retry(&mut self) {
        self.pass_due = Some((next_try(self.retries), "retry"));
        self.retries = self.retries.saturating_add(1);
    }

    pub(super) fn hinted(&mut self, hint: &Hint) {
        let Some(desired) = self.program.desired() else {
            // No device of ours is wanted yet.
            self.look_soon();
            return;
        };
        let (is_routed, links) = (desired.network().backend.is_routed(), &desired.me().underlay.links);
        self.shaken |= is_routed && hint.shakes(links);
        let underlay = (is_routed && hint.concerns_links(links))
            || hint
                .host_route()
                .is_some_and(|prefix| desired.sends_into(prefix) || self.is_chosen_by(prefix))
            || hint.concerns_underlay(desired.tables());
        self.drift.heed(hint, desired.tables(), &desired.network().pools, Instant::now().into_std());
        if let Hint::AddressGone(gone) = hint
            && gone.address.addr().is_ipv6()
            && hint.concerns(desired.tables())
        {
            // IPv6 that is switched off takes its addresses away. Whether it is has to be known before they are
            // set again.
            self.facts_due = self.facts_due.into_iter().chain(self.repair_due()).min();
        }
        if underlay {
            self.look_soon();
        }
    }

    /// Whether a route to a prefix has a say in which interface is sent over.
    fn is_chosen_by(&self, prefix: IpNet) -> bool {
        let can_reach = self.place.selection.can_reach;
        prefix.prefix_len() == 0 || can_reach.is_some_and(|address| prefix.contains(&address))
    }

    /// When what is adrift is put right: after the rest of its flock, and not at once again.
    fn repair_due(&self) -> Option<Instant> {
        let since = Instant::from_std(self.drift.since()?);
        let again = self.last_drift.filter(|last| since < *last + FIGHT);
        Some(again.map_or(since + FLOCK, |last| (last + FIGHT / 4).max(since + FLOCK)))
    }

    pub(super) fn look_soon(&mut self) {
        let soon = Instant::now() + ADDRESSES;
        self.facts_due = Some(self.facts_due.map_or(soon, |due| due.min(soon)));
    }

    pub(super) fn next_due(&self) -> Instant {
        let pass = self.pass_due.map(|(due, _)| due);
        let others = [
            self.silence.due(),
            self.silence.asks(),
            self.announcer.due(),
            self.tunnels.due(),
            self.left_out.due(),
        ];
        [pass, self.repair_due(), self.facts_due, self.listen_due]
            .into_iter()
            .chain(others)
            .flatten()
            .fold(self.audit_due, Instant::min)
    }

    pub(super) async fn due(&mut self, hints: &mut Option<Hints>) {
        let now = Instant::now();
        if self.listen_due.is_some_and(|due| due <= now) {
            self.listen_due = None;
            *hints = self.listen().await;
            // Whatever was missed meanwhile.
            self.hinted(&Hint::Overrun);
        }
        if self.facts_due.is_some_and(|due| due <= now) {
            self.facts_due = None;
            let shaken = std::mem::take(&mut self.shaken);
            if self.look().await || shaken {
                self.rebuild("underlay").await;
            }
        }
        self.announce(now).await;
        self.forgive(now).await;
        self.ask(now).await;
        self.look_at_tunnels(now).await;
        if self.repair_due().is_some_and(|due| due <= now) {
            self.pass_due = Some((now, "drift"));
        }
        if let Some((_, why)) = self.pass_due.filter(|(due, _)| *due <= now) {
            if why == "drift" {
                self.last_drift = Some(now);
            }
            self.pass(why).await;
        }
        if self.audit_due <= now {
            self.audit_due = next_audit();
            if self.look().await {
                self.rebuild("underlay").await;
            } else if self.wants_key() {
                self.rebuild("key").await;
            } else {
                self.pass("audit").await;
            }
        }
    }
}
