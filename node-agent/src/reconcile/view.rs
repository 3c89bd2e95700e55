//! What reconcile tells the others: the endpoint for the lease, and how far
//! the kernel is.

use std::collections::BTreeMap;
use std::sync::Arc;

use loden_datapath::{Datapath, Host, backend};
use loden_proto::model::Receiver;
use tokio::time::Instant;

use super::Reconcile;
use crate::lease::lacks_a_family;
use crate::peers::PeerSet;
use crate::status::{Applied, Failure};

impl<D: Datapath + Host> Reconcile<D> {
    pub(super) fn publish(&mut self) {
        self.look_at_families_again();
        let now = self.local();
        self.ends.local.send_if_modified(|local| {
            let changed = *local != now;
            if changed {
                *local = now;
            }
            changed
        });
        let wanting = self.wanting();
        self.ends.wanting.send_if_modified(|before| {
            let changed = before.is_some() != wanting.is_some();
            if changed {
                *before = wanting;
            }
            changed
        });
        let applied = self.applied();
        self.ends.applied.send_if_modified(|before| {
            let changed = *before != applied;
            if changed {
                *before = applied;
            }
            changed
        });
    }

    fn wanting(&self) -> Option<usize> {
        let (held, network) = self.lease.as_ref()?;
        lacks_a_family(held, network).then(|| self.peers.as_ref().map_or(0, PeerSet::len))
    }

    fn applied(&mut self) -> Applied {
        let failures = self.failures();
        // A server that is right does not name us to ourselves; one that is not makes no peer of it.
        let others = |peers: &PeerSet| peers.len() - usize::from(peers.peer(&self.place.node).is_some());
        let known = self.peers.as_ref().map_or(0, others);
        let desired = self.program.desired();
        let refused = desired.map_or(0, |desired| desired.refused().len());
        let waiting = desired.map_or(0, |desired| desired.waiting().len());
        let ungrounded = self.peers.as_ref().is_some_and(|peers| !peers.is_grounded());
        let adopting = "the control plane is still collecting leases and has not told all peers";
        let subnets = desired.and_then(|desired| desired.me().usable_subnets());
        let nothing_works = desired.filter(|_| subnets.is_none()).and_then(|_| self.without_v6());
        let unfinished = self
            .no_interface
            .clone()
            .or_else(|| self.swallowing())
            .or_else(|| self.cramped())
            .or_else(|| self.waits.clone())
            .or_else(|| self.unroutable())
            .or(nothing_works)
            .or_else(|| self.program.unfinished());
        Applied {
            source: self.source.filter(|_| self.program.desired().is_some()),
            peers: known.saturating_sub(refused + waiting + self.program.failed().len()),
            waiting,
            failures,
            unfinished: unfinished.or_else(|| ungrounded.then(|| adopting.to_owned())),
            unsaved: self.unsaved.clone(),
            ended: self.ended.clone(),
            lease: self.lease.clone(),
            subnets,
            mtu: self.mtu(),
            token: self.told.clone().or_else(|| self.peers.as_ref()?.token().cloned()),
            time: self.applied_at,
            last_pass: self.program.last_pass(),
            done: self.program.done().clone(),
            devices: self.devices(),
            warnings: self.warnings(),
        }
    }

    /// Everybody who is left out, each with when that was first seen.
    fn failures(&mut self) -> Arc<BTreeMap<String, Failure>> {
        let Self { left_out, peers, program, .. } = self;
        left_out.all(Instant::now(), || {
            let unreadable = peers.iter().flat_map(|peers| peers.refused().clone());
            let refused = program.desired().into_iter().flat_map(|desired| {
                desired.refused().iter().map(|(node, reason)| (node.to_string(), reason.to_string()))
            });
            let failed = program.failed().iter().map(|(node, reason)| (node.to_string(), reason.clone()));
            unreadable.chain(refused).chain(failed).collect()
        })
    }

    pub(super) fn mtu(&self) -> u32 {
        let Some(desired) = self.program.desired() else { return 0 };
        let wanted = backend::pod_mtu(desired.network(), &desired.me().underlay);
        let devices = self.program.receivers().iter().filter_map(|receiver| match receiver {
            Receiver::Vxlan(vtep) => Some(vtep.mtu),
            Receiver::Udp(udp) => Some(udp.mtu),
            Receiver::Routed(_) => None,
        });
        devices.fold(wanted, u32::min)
    }
}
