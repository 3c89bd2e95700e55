//! The single owner of a network's datapath and of its file.
//!
//! ```text
//!  feed (peers) ──▶ file ──▶ PeerSet ──▶ Desired ──▶ kernel
//!  lease ─────────▶ file ──────────────────┘  ▲
//!  hints ─▶ facts ─▶ interface ───────────────┘    kernel ──▶ receivers ──▶ lease
//! ```
//!
//! Nothing is touched before a whole set is known, from the server or from the
//! file. Nothing is deleted before the server has confirmed the set and our
//! own lease. What is known is on disk before it is in the kernel.

mod agenda;
mod ending;
mod families;
mod friction;
mod keeping;
mod left_out;
mod neighbours;
mod pass;
mod secret;
mod settings;
mod silence;
mod tunnels;
mod underlay;
mod view;
mod whereabouts;

use std::net::IpAddr;
use std::time::SystemTime;

use loden_datapath::backend::{self, Desired, Me, Underlay};
use loden_datapath::{Datapath, Drift, Hint, Host, HostFacts};
use loden_proto::model::{Network, Port};
use loden_proto::names::{NetworkId, NodeId};
use loden_transport::{Dialled, Origins};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use self::left_out::LeftOut;
use self::silence::Silence;
use self::tunnels::Tunnels;
use self::whereabouts::Announcer;
use crate::follow::Feed;
use crate::heirs::Siblings;
use crate::iface::{Choice, Selection};
use crate::keys::Keys;
use crate::lease::Local;
use crate::peers::{Changes, PeerSet, Token, Update};
use crate::program::Program;
use crate::state::{Held, Kept, NetworkFile};
use crate::status::{Applied, LeaseView, Source};
use crate::upkeep::{heard, next_audit};

/// Which host and which network.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) node: NodeId,
    pub(crate) network: NetworkId,
    pub(crate) selection: Selection,
    /// Drop what is for our subnets and for no pod.
    pub(crate) blackhole: bool,
    /// The port of UDP tunnels, where it is not the network's.
    pub(crate) udp_port: Option<Port>,
    /// Where the control plane is.
    pub(crate) dialled: Dialled,
    pub(crate) origins: Origins,
}

/// The ends of the channels that reconcile holds.
pub(crate) struct Ends {
    pub(crate) feed: mpsc::Receiver<Feed>,
    pub(crate) lease: watch::Receiver<LeaseView>,
    /// The same, for a network that has ended: what was held is not claimed again.
    pub(crate) view: watch::Sender<LeaseView>,
    /// The other networks of the agent.
    pub(crate) siblings: Siblings,
    pub(crate) local: watch::Sender<Option<Local>>,
    /// How many members the network has, while its pools are of a family that our lease lacks.
    pub(crate) wanting: watch::Sender<Option<usize>>,
    pub(crate) applied: watch::Sender<Applied>,
}

/// What the loop waits for.
enum Event {
    Fed(Feed),
    Leased,
    /// Another network of the agent, or this one, takes up something else.
    Claimed,
    Heard(Hint),
    /// The control plane's name stands for other addresses.
    Dialled,
    /// Notifications have ended.
    Deaf,
    Due,
    Ending,
}

/// One network's owner.
pub(crate) struct Reconcile<D> {
    place: Place,
    ends: Ends,
    program: Program<D>,
    file: NetworkFile,
    lease: Option<(Held, Network)>,
    /// What was granted last; the network may have changed since.
    granted: Option<(Held, Network)>,
    peers: Option<PeerSet>,
    /// Of this node's tunnel.
    keys: Option<Keys>,
    choice: Option<Choice>,
    /// The addresses of the last choice, of this process's life or the one before.
    sends_from: Vec<IpAddr>,
    /// The host as it was when the interface was chosen.
    facts: HostFacts,
    silence: Silence,
    announcer: Announcer,
    tunnels: Tunnels,
    /// Routes over a link of the host may be gone: look even if nothing changed.
    shaken: bool,
    /// Why there is no interface; the last one stays in use.
    no_interface: Option<String>,
    unsaved: Option<String>,
    /// Why the network has ended.
    ended: Option<String>,
    /// Why it cannot be programmed before another one has ended.
    waits: Option<String>,
    source: Option<Source>,
    /// The server has confirmed the set and is not adopting.
    current: bool,
    /// Everything that is not desired has been looked for and removed.
    swept: bool,
    /// The same for what is of no network of the host.
    tidied: bool,
    retries: u32,
    pass_due: Option<(Instant, &'static str)>,
    drift: Drift,
    facts_due: Option<Instant>,
    /// Since when nothing of IPv6 works here though the network has some.
    off_since: Option<Instant>,
    /// When to listen for notifications again.
    listen_due: Option<Instant>,
    listened: Option<Instant>,
    audit_due: Instant,
    last_drift: Option<Instant>,
    applied_at: Option<SystemTime>,
    /// Of the last update; it differs from the set's while that is not whole.
    told: Option<Token>,
    left_out: LeftOut,
}

impl<D: Datapath + Host> Reconcile<D> {
    pub(crate) fn new(place: Place, ends: Ends, datapath: D, file: NetworkFile, kept: Kept) -> Self {
        Self {
            place,
            ends,
            program: Program::new(datapath),
            unsaved: file.refused().map(ToString::to_string),
            file,
            granted: kept.lease.clone(),
            lease: kept.lease,
            peers: kept.peers,
            keys: kept.keys,
            choice: None,
            sends_from: kept.sends_from,
            facts: HostFacts::default(),
            silence: Silence::recalled(&kept.silent, Instant::now()),
            announcer: Announcer::default(),
            tunnels: Tunnels::default(),
            shaken: false,
            no_interface: None,
            ended: None,
            waits: None,
            source: None,
            current: false,
            swept: false,
            tidied: false,
            retries: 0,
            pass_due: None,
            drift: Drift::default(),
            facts_due: None,
            off_since: None,
            listen_due: None,
            listened: None,
            audit_due: next_audit(),
            last_drift: None,
            applied_at: None,
            told: None,
            left_out: LeftOut::default(),
        }
    }

    /// Runs until a channel closes.
    pub(crate) async fn run(mut self) {
        let mut hints = self.listen().await;
        let mut dialled = self.place.dialled.changes();
        self.look().await;
        self.recall().await;
        self.rebuild("start").await;
        self.publish();
        loop {
            let due = self.next_due();
            let event = tokio::select! {
                feed = self.ends.feed.recv() => feed.map_or(Event::Ending, Event::Fed),
                changed = self.ends.lease.changed() => changed.map_or(Event::Ending, |()| Event::Leased),
                () = self.ends.siblings.changed() => Event::Claimed,
                // The sender is ours as well.
                Ok(()) = dialled.changed() => Event::Dialled,
                hint = heard(&mut hints) => hint.map_or(Event::Deaf, Event::Heard),
                () = sleep_until(due) => Event::Due,
            };
            match event {
                Event::Fed(feed) => self.fed(feed).await,
                Event::Leased => self.leased().await,
                // Below, as after everything else.
                Event::Claimed => {}
                Event::Dialled => self.rebuild("control plane's address").await,
                Event::Heard(hint) => {
                    self.heard(&hint).await;
                    while let Some(hint) = hints.as_mut().and_then(|hints| hints.try_recv().ok()) {
                        self.heard(&hint).await;
                    }
                }
                Event::Deaf => {
                    hints = None;
                    self.hinted(&Hint::Overrun);
                    self.listen_soon();
                }
                Event::Due => self.due(&mut hints).await,
                Event::Ending => return,
            }
            self.sweep().await;
            self.heed_siblings().await;
            self.tidy().await;
            self.publish();
        }
    }

    async fn fed(&mut self, feed: Feed) {
        if self.ended.is_some() {
            // Granted anew, perhaps: that comes before its peers.
            self.leased().await;
        }
        match feed {
            _ if self.ended.is_some() => {}
            Feed::Current { adopting, token } => {
                self.current = !adopting;
                self.told = token.or_else(|| self.told.take());
                if self.source == Some(Source::Disk) {
                    self.source = Some(Source::Server);
                }
            }
            Feed::Update(update) => self.update(update).await,
        }
    }

    async fn update(&mut self, update: Update) {
        let (network, snapshot) = match &update {
            Update::Snapshot(snapshot) => {
                self.current = !snapshot.adopting;
                (Some(snapshot.network.clone()), true)
            }
            Update::Delta(delta) => (delta.network.clone(), false),
        };
        let kept = match &update {
            Update::Delta(delta) => self.file.append(delta),
            Update::Snapshot(_) => Ok(false),
        };
        let token = update.token().cloned();
        let changes = self.peers.get_or_insert_default().apply(update);
        let newer = self.take_network(network, snapshot);
        self.saved(kept).await;
        self.source = Some(Source::Server);
        self.told = token.or_else(|| self.told.take());
        if newer || snapshot || self.program.desired().is_none() {
            self.rebuild("peers from the server").await;
        } else {
            self.change(changes).await;
        }
    }

    /// Programs what changed, when the kernel is as we left it.
    async fn change(&mut self, changes: Changes) {
        let Some(peers) = &self.peers else { return };
        let delta = backend::Delta {
            removed: changes.unset.iter().map(|peer| peer.node.clone()).collect(),
            upserted: changes.set.iter().filter_map(|node| peers.peer(node)).cloned().collect(),
        };
        let delete = self.may_delete();
        if !delete && !delta.removed.is_empty() {
            self.swept = false;
        }
        let changed = self.program.change(|desired| desired.apply(delta), peers, delete).await;
        self.changed(changed);
    }

    fn changed(&mut self, whole: bool) {
        if whole {
            self.applied_at = Some(SystemTime::now());
        } else {
            self.retry();
        }
    }

    /// The newer of the network that is known and the one that was told. A snapshot's is the server's own,
    /// whatever a store that was lost since has said.
    fn take_network(&mut self, told: Option<Box<Network>>, snapshot: bool) -> bool {
        match (&mut self.lease, told) {
            (Some((_, known)), Some(told)) if snapshot || told.revision > known.revision => {
                *known = *told;
                true
            }
            _ => false,
        }
    }

    async fn leased(&mut self) {
        let view = self.ends.lease.borrow_and_update().clone();
        let Some((held, mut network)) = view.held else { return };
        // Other news of the lease bring an old network along.
        let granted = Some((held, network.clone()));
        let fresh = self.granted != granted;
        self.granted = granted;
        if let Some((_, known)) = &self.lease
            && (!fresh || (known.revision > network.revision && known.created == network.created))
        {
            network = known.clone();
        }
        if self.lease.as_ref().is_some_and(|(_, known)| known.vni != network.vni) {
            // It was deleted and made again: whoever is in it now is not known yet.
            self.peers = None;
            self.source = None;
            self.current = false;
        }
        if self.lease.as_ref() == Some(&(held, network.clone())) {
            return;
        }
        self.ended = None;
        let kept = self.file.append_lease(held, &network);
        self.lease = Some((held, network));
        self.saved(kept).await;
        self.rebuild("lease").await;
    }

    /// Makes what is desired anew where the host, the lease or the network
    /// changed, and brings the kernel there.
    async fn rebuild(&mut self, why: &'static str) {
        self.turn_keys().await;
        let (Some((held, network)), Some(peers), Some(choice)) = (&self.lease, &self.peers, &self.choice)
        else {
            return;
        };
        let in_the_way = [self.ended.clone(), self.swallowing(), self.cramped()];
        if in_the_way.iter().any(Option::is_some) {
            return;
        }
        self.ends.siblings.tell(self.claim());
        self.waits = self.ends.siblings.waits();
        if self.waits.is_some() {
            return;
        }
        if self.source.is_none() {
            self.source = Some(Source::Disk);
        }
        let me = Me {
            node: self.place.node.clone(),
            subnets: held.subnets,
            underlay: Underlay {
                unanswered: self.silence.addresses(),
                ..underlay::of(choice, &self.facts, &self.place.dialled, network, held)
            },
            mac: backend::mac_of(&self.place.node, &self.place.network),
            keys: self.keys_of(network.backend),
            blackhole: self.place.blackhole,
            udp_port: self.place.udp_port,
        };
        let unchanged = |desired: &&mut Desired| desired.network() == network && *desired.me() == me;
        let peers = peers.iter().cloned();
        match self.program.desired_mut().filter(unchanged) {
            Some(desired) => drop(desired.replace(peers)),
            None => {
                let mut desired = Desired::new(network.clone(), me);
                desired.replace(peers);
                self.program.want(desired);
            }
        }
        self.pass(why).await;
    }
}
