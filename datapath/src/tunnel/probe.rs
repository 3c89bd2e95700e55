//! Finds out what passes on the ways to the peers: one thread for each network, away from its packets.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use super::control::{self, Control};
use super::ecn::Ecn;
use super::header::Header;
use super::peers::Remote;
use super::port::{Datagrams, Port};
use super::search::{Probe, Search};
use super::stop::Stop;
use super::view::View;
use super::wait;

/// How often is looked while something is sent to some peer, and while not.
const BUSY: u16 = 100;
const IDLE: u16 = 1000;
/// A peer that nothing was sent to for so long is not probed.
const UNUSED: Duration = Duration::from_secs(10);

/// Fills up probes.
static ZEROS: [u8; 65_536] = [0; 65_536];

/// Probes the ways to a network's peers.
#[derive(Debug)]
pub struct Prober {
    /// The peers.
    pub view: Arc<ArcSwap<View>>,
}

struct Known {
    search: Search,
    used: Instant,
}

impl Prober {
    /// Runs until `stop` is set.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn run(&self, stop: &Stop) -> io::Result<()> {
        let mut known = HashMap::new();
        while !stop.is_set() {
            let is_busy = tick(&self.view.load(), &mut known, Instant::now());
            wait::pause(stop, if is_busy { BUSY } else { IDLE })?;
        }
        Ok(())
    }
}

/// Looks at all ways; answers whether some is used.
fn tick(view: &View, known: &mut HashMap<SocketAddr, Known>, now: Instant) -> bool {
    known.retain(|endpoint, known| {
        let remote = view.peers.at(*endpoint);
        remote.is_some_and(|remote| remote.path.most() == known.search.most())
    });
    let mut is_busy = false;
    for remote in view.peers.remotes() {
        let path = &remote.path;
        let is_used = path.take_used();
        if is_used && !known.contains_key(&remote.endpoint) {
            let search = Search::new(path.base(), path.most(), now);
            known.insert(remote.endpoint, Known { search, used: now });
        }
        let Some(Known { search, used }) = known.get_mut(&remote.endpoint) else { continue };
        if is_used {
            *used = now;
        }
        if let Some(mtu) = path.take_refused() {
            search.refused(mtu, now);
        }
        if let Some(nonce) = path.take_answer() {
            search.answered(nonce, now);
        }
        if now < *used + UNUSED {
            is_busy = true;
            if let Some(probe) = search.poll(now, nonce())
                && let Some(port) = view.port_to(remote.endpoint)
            {
                send(port, view, remote, probe);
            }
        }
        path.set_mtu(search.mtu());
    }
    is_busy
}

/// A number that nobody can guess, and not 0.
fn nonce() -> u64 {
    // Its keys are random.
    RandomState::new().build_hasher().finish().max(1)
}

/// What cannot be sent is lost as well; that it is too long is told by the host.
fn send(port: &Port, view: &View, remote: &Remote, Probe { size, nonce }: Probe) {
    let header = Header { vni: view.peers.vni(), key: remote.key, partial: false };
    let head = Control::Probe(nonce).encode(header);
    let outer = remote.path.overhead() - super::header::LENGTH as u16;
    let segment = usize::from(size - outer).max(control::LENGTH);
    let bytes = [IoSlice::new(&head), IoSlice::new(&ZEROS[..segment - head.len()])];
    let to = remote.endpoint.into();
    if let Err(error) = port.send(&to, Datagrams { bytes: &bytes, segment, mark: Ecn::NotEct }) {
        tracing::debug!(peer = %remote.endpoint, size, %error, "a probe was not sent");
    }
}
