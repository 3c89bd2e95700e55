//! What UDP tunnels leave to the kernel: looked at now and then, since they step down by themselves, and end without a
//! notification.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use loden_datapath::{Datapath, DeviceName, Host, Rungs};
use loden_proto::model::Backend;
use tokio::time::Instant;

use super::Reconcile;

/// How often is looked.
const LOOK: Duration = Duration::from_secs(5);

/// What was seen last.
#[derive(Debug, Default)]
pub(super) struct Tunnels {
    rungs: BTreeMap<DeviceName, Rungs>,
    due: Option<Instant>,
}

impl Tunnels {
    pub(super) const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// There may be some.
    pub(super) fn expect(&mut self) {
        self.due.get_or_insert_with(|| Instant::now() + LOOK);
    }

    /// What of them is less than the network allows.
    pub(super) fn warnings(&self, backend: Backend) -> Vec<String> {
        if !matches!(backend, Backend::Udp(_)) {
            return Vec::new();
        }
        self.rungs.iter().flat_map(|(name, rungs)| stepped_down(*name, rungs)).collect()
    }
}

impl<D: Datapath + Host> Reconcile<D> {
    /// Looks at the tunnels that there should be; one that has ended is drift.
    pub(super) async fn look_at_tunnels(&mut self, now: Instant) {
        let Some(desired) = self.program.desired() else { return };
        let names: Vec<DeviceName> = desired.tables().listening.keys().copied().collect();
        if self.tunnels.due.is_none_or(|due| now < due) {
            return;
        }
        if names.is_empty() {
            self.tunnels = Tunnels::default();
            return;
        }
        let mut rungs = BTreeMap::new();
        for name in &names {
            rungs.extend(self.program.datapath.rungs(*name).await.map(|found| (*name, found)));
        }
        if rungs.len() < names.len() && self.pass_due.is_none() {
            self.pass_due = Some((now, "drift"));
        }
        self.tunnels = Tunnels { rungs, due: Some(now + LOOK) };
    }
}

fn stepped_down(tunnel: DeviceName, rungs: &Rungs) -> Vec<String> {
    // Those that held when it was looked: the network's own may be others by now.
    let limits = rungs.limits;
    let mut told = Vec::new();
    if rungs.device < limits.device {
        told.push(format!(
            "the kernel lets {tunnel} hand out {} and no more: pods' packets are cut sooner, and sending costs more",
            rungs.device
        ));
    }
    if rungs.single_receives && !limits.single_receives {
        told.push(format!(
            "the kernel does not merge what {tunnel} receives (UDP_GRO): receiving costs more"
        ));
    }
    if let Some(peers) = first_and_others(rungs.singly.iter()) {
        told.push(format!(
            "what {tunnel} sends at once (UDP_SEGMENT) is refused or does not arrive on the way to {peers}: each datagram \
             is sent by itself, which costs more"
        ));
    }
    if let Some(peers) = first_and_others(rungs.narrow.iter().map(|(peer, _)| peer)) {
        let least = rungs.narrow.iter().map(|(_, mtu)| *mtu).min().unwrap_or_default();
        told.push(format!(
            "packets of {tunnel} that are longer than {least} bytes do not arrive on the way to {peers}: pods are told, \
             and send shorter ones; a smaller MTU of the network saves them that"
        ));
    }
    told
}

/// For a sentence; `None` where there is nobody.
fn first_and_others<'a>(mut peers: impl Iterator<Item = &'a SocketAddr>) -> Option<String> {
    let first = peers.next()?;
    Some(match peers.count() {
        0 => first.to_string(),
        1 => format!("{first} and another one"),
        more => format!("{first} and {more} others"),
    })
}

#[cfg(test)]
mod tests {
    use loden_datapath::tunnel::limits::Limits;
    use loden_proto::model::DeviceOffload;

    use super::*;

    #[test]
    fn what_is_less_than_allowed_is_told() {
        let told = |rungs: &Rungs| stepped_down("loden1u".parse().unwrap(), rungs);
        let limits = Limits { device: DeviceOffload::Plain, single_sends: true, single_receives: true };
        let top = Rungs { device: DeviceOffload::Uso, ..Rungs::default() };
        assert_eq!(told(&top), Vec::<String>::new());
        let bottom = Rungs { device: DeviceOffload::Plain, single_receives: true, ..top.clone() };
        assert_eq!(told(&Rungs { limits, ..bottom.clone() }), Vec::<String>::new(), "it may do no more");
        let lines = told(&bottom).join("\n");
        assert!(lines.contains("loden1u hand out plain and no more"), "{lines}");
        assert!(lines.contains("does not merge"), "{lines}");

        let peer = |last: u8| SocketAddr::from(([192, 0, 2, last], 8285));
        let singly = Rungs { singly: vec![peer(1), peer(2), peer(3)], ..top.clone() };
        assert!(told(&singly)[0].contains("192.0.2.1:8285 and 2 others"), "{:?}", told(&singly));
        let narrow = Rungs { narrow: vec![(peer(1), 1400), (peer(2), 1300)], ..top };
        let text = told(&narrow).remove(0);
        assert!(text.contains("longer than 1300 bytes") && text.contains("1:8285 and another one"), "{text}");
    }
}
