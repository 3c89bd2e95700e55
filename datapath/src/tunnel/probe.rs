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
use super::gather::{Gather, Pair};
use super::header::Header;
use super::path::Asked;
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
    gather: Gather,
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
            known.insert(remote.endpoint, Known { search, gather: Gather::new(now), used: now });
        }
        let Some(Known { search, gather, used }) = known.get_mut(&remote.endpoint) else { continue };
        if is_used {
            *used = now;
        }
        if let Some(mtu) = path.take_refused() {
            search.refused(mtu, now);
        }
        if path.take_refused_many() {
            gather.refused(now);
        }
        if let Some(nonce) = path.take_answer(Asked::Size)
            && let Some(size) = search.answered(nonce, now)
        {
            gather.single_arrived(size, now);
        }
        for asked in [Asked::First, Asked::Second] {
            if let Some(nonce) = path.take_answer(asked) {
                gather.answered(nonce, now);
            }
        }
        if now < *used + UNUSED {
            is_busy = true;
            let Some(port) = view.port_to(remote.endpoint) else { continue };
            let suspected = gather.suspects();
            let pair = [Asked::First, Asked::Second].map(|asked| asked.nonce(random()));
            if view.gathers
                && let Some(Pair { size, nonces }) = gather.poll(now, search.mtu(), pair)
            {
                send(port, view, remote, size, &nonces);
            }
            if gather.suspects() && !suspected {
                search.confirm(now);
            }
            if let Some(Probe { size, nonce }) = search.poll(now, Asked::Size.nonce(random())) {
                send(port, view, remote, size, &[nonce]);
            }
        }
        path.set_mtu(search.mtu());
        path.set_gathers(gather.trusts());
    }
    is_busy
}

/// A number that nobody can guess.
fn random() -> u64 {
    // Its keys are random.
    RandomState::new().build_hasher().finish()
}

/// Sends a probe, or several at once. What cannot be sent is lost as well; that it is too long is told by the host.
fn send(port: &Port, view: &View, remote: &Remote, size: u16, nonces: &[u64]) {
    let header = Header { vni: view.peers.vni(), key: remote.key, partial: false };
    let outer = remote.path.overhead() - super::header::LENGTH as u16;
    let segment = usize::from(size - outer).max(control::LENGTH);
    let heads: Vec<_> = nonces.iter().map(|nonce| Control::Probe(*nonce).encode(header)).collect();
    let probe = |head| [IoSlice::new(head), IoSlice::new(&ZEROS[..segment - control::LENGTH])];
    let bytes: Vec<_> = heads.iter().flat_map(|head| probe(head)).collect();
    let to = remote.endpoint.into();
    if let Err(error) = port.send(&to, Datagrams { bytes: &bytes, segment, mark: Ecn::NotEct }) {
        tracing::debug!(peer = %remote.endpoint, size, count = nonces.len(), %error, "a probe was not sent");
    }
}
