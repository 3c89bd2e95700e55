//! The keys of this node's tunnel: made when there is a tunnel, another one when they are old.

use std::time::SystemTime;

use loden_datapath::{Datapath, Host};
use loden_proto::model::{Backend, Key};
use tracing::info;

use super::Reconcile;
use crate::keys::Keys;

impl<D: Datapath + Host> Reconcile<D> {
    /// Whether another key is due.
    pub(super) fn wants_key(&self) -> bool {
        let is_tunneled =
            self.lease.as_ref().is_some_and(|(_, network)| matches!(network.backend, Backend::Udp(_)));
        is_tunneled && self.keys.as_ref().is_none_or(|keys| keys.is_old(SystemTime::now()))
    }

    /// Makes another key where one is due. It is on disk before anybody is told of it.
    pub(super) async fn turn_keys(&mut self) {
        if !self.wants_key() {
            return;
        }
        let (key, now) = (random(), SystemTime::now());
        let keys = match &self.keys {
            Some(keys) => keys.turned(key, now),
            None => Keys::new(key, now),
        };
        info!(network = %self.place.network, first = self.keys.is_none(), "the tunnel has a new key");
        let kept = self.file.append_keys(&keys);
        self.keys = Some(keys);
        self.saved(kept).await;
    }

    /// What the tunnel takes, in a network that has one.
    pub(super) fn keys_of(&self, backend: Backend) -> Vec<Key> {
        match backend {
            Backend::Udp(_) => self.keys.iter().flat_map(Keys::all).collect(),
            Backend::Alloc | Backend::HostGw | Backend::Vxlan(_) => Vec::new(),
        }
    }
}

fn random() -> Key {
    loop {
        // All but one number of 2^64 is a key.
        if let Ok(key) = Key::try_from(rand::random::<u64>()) {
            return key;
        }
    }
}
