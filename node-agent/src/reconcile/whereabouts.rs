//! Tells whoever is on the underlay's link when this host has another MAC address, or has moved its addresses:
//! what they remember of it leads nowhere, and without a word they find that out after half a minute only.

use std::net::IpAddr;
use std::time::Duration;

use loden_datapath::{Datapath, DeviceName, Host};
use loden_proto::model::{Backend, Mac};
use loden_transport::explain;
use tokio::time::Instant;
use tracing::{debug, info};

use super::Reconcile;

/// How often it is told, since nobody answers: as often as a neighbour advertisement may be (RFC 4861, 10),
const TIMES: u32 = 3;
/// and this far apart.
const APART: Duration = Duration::from_secs(1);

/// Where a host is found on its link.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Whereabouts {
    pub(super) device: DeviceName,
    pub(super) mac: Mac,
    pub(super) addresses: Vec<IpAddr>,
}

/// What is known of it, and when it is told.
#[derive(Debug, Default)]
pub(super) struct Announcer {
    last: Option<Whereabouts>,
    left: u32,
    due: Option<Instant>,
}

impl Announcer {
    /// Takes where the host is. Of what it starts with nobody remembers anything else.
    fn see(&mut self, whereabouts: Whereabouts, now: Instant) {
        if self.last.as_ref() == Some(&whereabouts) {
            return;
        }
        if self.last.replace(whereabouts).is_some() {
            (self.left, self.due) = (TIMES, Some(now));
        }
    }

    /// When it is told next.
    pub(super) const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// What is to be told now.
    fn take(&mut self, now: Instant) -> Option<Whereabouts> {
        self.due.filter(|due| *due <= now)?;
        self.left = self.left.saturating_sub(1);
        self.due = (self.left > 0).then_some(now + APART);
        self.last.clone()
    }
}

impl<D: Datapath + Host> Reconcile<D> {
    /// Takes where this host is now.
    pub(super) fn locate(&mut self) {
        let Some(choice) = &self.choice else { return };
        let interface = self.facts.interface(choice.device).filter(|interface| interface.broadcast);
        if let Some(mac) = interface.and_then(|interface| interface.mac) {
            let whereabouts = Whereabouts { device: choice.device, mac, addresses: choice.addresses() };
            self.announcer.see(whereabouts, Instant::now());
        }
    }

    /// Tells it when that is due, where anybody sends to this host.
    pub(super) async fn announce(&mut self, now: Instant) {
        let Some(Whereabouts { device, mac, addresses }) = self.announcer.take(now) else { return };
        if self.lease.as_ref().is_none_or(|(_, network)| network.backend == Backend::Alloc) {
            return;
        }
        match self.program.datapath.announce(device, &addresses).await {
            Ok(()) => info!(%device, %mac, ?addresses, "neighbours told who has the underlay's addresses"),
            // Told again; an address may not be used yet.
            Err(error) => debug!(%device, error = explain(&error), "neighbours cannot be told"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(mac: &str, address: &str) -> Whereabouts {
        Whereabouts {
            device: "eth0".parse().unwrap(),
            mac: mac.parse().unwrap(),
            addresses: vec![address.parse().unwrap()],
        }
    }

    #[tokio::test(start_paused = true)]
    async fn another_mac_or_address_is_told_three_times_and_the_last_one_wins() {
        let (mut announcer, start) = (Announcer::default(), Instant::now());
        let (old, new) = (at("02:00:00:00:00:01", "192.0.2.1"), at("02:00:00:00:00:02", "192.0.2.1"));
        announcer.see(old.clone(), start);
        assert_eq!((announcer.due(), announcer.take(start)), (None, None), "nobody remembers anything else");
        announcer.see(new.clone(), start);
        announcer.see(new.clone(), start + APART);
        assert_eq!(announcer.take(start), Some(new.clone()));
        assert_eq!((announcer.due(), announcer.take(start)), (Some(start + APART), None));
        assert_eq!(announcer.take(start + APART), Some(new.clone()));
        let moved = at("02:00:00:00:00:02", "192.0.2.7");
        announcer.see(moved.clone(), start + APART);
        for time in 1..=TIMES {
            assert_eq!(announcer.take(start + APART * time), Some(moved.clone()));
        }
        assert_eq!(announcer.due(), None);
    }
}
