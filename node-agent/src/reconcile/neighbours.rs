//! Moves peers that do not answer on a link of this host, and back.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use loden_datapath::{Datapath, DeviceName, Hint, Host};
use loden_transport::explain;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::Reconcile;

impl<D: Datapath + Host> Reconcile<D> {
    /// Takes what the kernel told.
    pub(super) async fn heard(&mut self, hint: &Hint) {
        match *hint {
            Hint::Answer { address, answers } => self.answered(address, answers).await,
            _ => self.hinted(hint),
        }
    }

    /// Takes from the kernel who has not answered before this agent was started: a peer that was moved away from its
    /// link stays where it is.
    pub(super) async fn recall(&mut self) {
        // Elsewhere nobody is moved, and a host may have many links.
        if !self.lease.as_ref().is_some_and(|(_, network)| network.backend.is_routed()) {
            return;
        }
        let links: BTreeSet<_> = self.facts.connected.iter().map(|(link, _)| *link).collect();
        let links: Vec<_> =
            links.into_iter().filter_map(|link| Some(self.facts.interface(link)?.index)).collect();
        for index in links {
            match self.program.datapath.unanswered(index).await {
                Ok(silent) => silent.into_iter().for_each(|address| {
                    self.silence.heard(address, false, Instant::now());
                }),
                Err(error) => warn!(error = %explain(&error), "who does not answer on a link cannot be read"),
            }
        }
    }

    async fn answered(&mut self, address: IpAddr, answers: bool) {
        let known = self
            .program
            .desired()
            .is_some_and(|desired| desired.network().backend.is_routed() && desired.knows(address));
        if known && self.silence.heard(address, answers, Instant::now()) {
            warn!(%address, "does not answer on its link");
            self.keep_silent().await;
            self.regard(address, false).await;
        }
    }

    /// Keeps who does not answer: after a restart they are where they were.
    async fn keep_silent(&mut self) {
        let kept = self.file.append_silent(&self.silence.addresses());
        self.saved(kept).await;
    }

    /// Asks for those who do not answer: a next hop that no route leads over is asked for by nobody else.
    pub(super) async fn ask(&mut self, now: Instant) {
        let Some(desired) = self.program.desired() else { return };
        let silent = self.silence.take_mute(now, |address| desired.knows(address));
        let mut by_link: BTreeMap<DeviceName, Vec<IpAddr>> = BTreeMap::new();
        for address in silent {
            if let Some(link) = desired.me().underlay.links.to(address) {
                by_link.entry(link.device).or_default().push(address);
            }
        }
        for (link, addresses) in by_link {
            if let Err(error) = self.program.datapath.ask(link, &addresses).await {
                debug!(%link, error = explain(&error), "neighbours cannot be asked for");
            }
        }
    }

    /// Forgives those who have answered long enough.
    pub(super) async fn forgive(&mut self, now: Instant) {
        let forgiven = self.silence.forgive(now);
        for address in &forgiven {
            info!(%address, "answers on its link again");
            self.regard(*address, true).await;
        }
        if !forgiven.is_empty() {
            self.keep_silent().await;
        }
    }

    async fn regard(&mut self, address: IpAddr, answers: bool) {
        let Some(peers) = &self.peers else { return };
        let delete = self.may_delete();
        let moved = self.program.change(|desired| desired.answers(address, answers), peers, delete).await;
        self.changed(moved);
    }
}
