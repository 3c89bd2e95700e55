//! Follows the log by one watch, and knows by a marker of its own that it does.
//!
//! ```text
//!  marker every 2 s ─▶ PREFIX/replicas/NAME ─▶ etcd ─▶ watch of PREFIX/ ─▶ our marker is back: up to there all was told
//!                                                           ├─▶ groups of the log ─▶ published
//!                                                           ├─▶ markers of others ─▶ told
//!                                                           └─▶ the store is deleted ─▶ nothing is written any more
//!  no marker of ours for 10 s, or the watch ends ─▶ read the log from where we are ─▶ watch anew
//! ```
//!
//! etcd's own progress notifications are no proof: before 3.4.25 they overtake what they tell of.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use etcd_client::{EventType, GetOptions, KeyValue, PutOptions, WatchOptions, WatchResponse};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout_at};
use tracing::{debug, info, warn};

use super::super::{Cause, Others, queue::Queue};
use super::committer::poison;
use super::error::{Failure, words};
use super::ground::{Ground, end_of};
use super::members::Member;

/// How often a marker is written.
const MARK: Duration = Duration::from_secs(2);
/// After this time without a marker of ours the watch is not believed.
pub(super) const SILENCE: Duration = Duration::from_secs(10);
/// Between attempts while etcd is away.
const PAUSE: Duration = Duration::from_millis(200);
/// How long a marker stays of a replica that is gone, in seconds.
const LEASE: i64 = 15;

/// Names a process among those that follow.
pub(super) type Instance = u64;

/// The one task that follows.
pub(super) struct Follower {
    pub(super) ground: Arc<Ground>,
    pub(super) queue: Arc<Queue>,
    /// Who we are among those who follow.
    pub(super) name: String,
    /// Which process we are: two of one name would take each other's markers for their own.
    pub(super) instance: Instance,
    /// What we tell the others.
    pub(super) note: watch::Receiver<Bytes>,
    pub(super) others: watch::Sender<Others>,
    /// Whether it was ever proven.
    pub(super) was_followed: bool,
    /// Since when nothing proves that we follow.
    pub(super) proven: Instant,
}

impl Follower {
    /// Follows until what is in etcd cannot be followed any more, which poisons the queue.
    pub(super) async fn run(mut self) {
        loop {
            let ended = self.follow().await;
            let cause: Cause = match ended {
                Ok(ended) => ended.into(),
                Err(Failure::Etcd(error)) => words(&error).into(),
                Err(failure) => return poison(&self.queue, &failure),
            };
            debug!(%cause, "the watch of etcd has ended");
            if self.proven.elapsed() >= SILENCE && self.queue.suspend(cause.clone()) {
                warn!(%cause, "etcd cannot be followed: nothing is written for now");
            }
            sleep(PAUSE).await;
        }
    }

    /// From a look at the log until the watch ends; answers why it did.
    async fn follow(&mut self) -> Result<&'static str, Failure> {
        let revision = self.ground.catch_up(&self.queue).await?;
        let member = self.ground.members.member().await?;
        let ended = self.watch(&member, revision).await;
        // The next one may know more.
        self.ground.members.leave(member.number).await;
        ended
    }

    async fn watch(&mut self, member: &Member, revision: i64) -> Result<&'static str, Failure> {
        self.look_for_others(member).await?;
        let lease = member.lease().grant(LEASE, None).await?.id();
        let (mut keeper, mut kept) = member.lease().keep_alive(lease).await?;
        let names = self.ground.names.clone();
        let options = WatchOptions::new().with_prefix().with_start_revision(revision + 1);
        let mut watch = member.watch().watch(names.all(), Some(options)).await?;
        let marker = format!("{}{}", names.replicas(), self.name);
        let mut mark = interval(MARK);
        mark.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let begun = Instant::now();
        let mut heard = begun;
        loop {
            tokio::select! {
                _ = mark.tick() => {
                    let note = [&self.instance.to_le_bytes()[..], &self.note.borrow_and_update()].concat();
                    let options = PutOptions::new().with_lease(lease);
                    member.kv().put(marker.as_str(), note, Some(options)).await?;
                    keeper.keep_alive().await?;
                }
                answer = kept.message() => {
                    if answer?.is_none_or(|answer| answer.ttl() <= 0) {
                        return Ok("etcd has forgotten the lease of our marker");
                    }
                }
                Ok(()) = self.note.changed() => mark.reset_immediately(),
                message = timeout_at(heard + SILENCE, watch.message()) => {
                    let Ok(message) = message else { return Ok("no marker of ours has come back for a while") };
                    let Some(message) = message? else { return Ok("etcd has ended the watch") };
                    if message.canceled() {
                        return Ok("etcd has cancelled the watch");
                    }
                    if self.take(&marker, &message).await? {
                        heard = Instant::now();
                        self.is_proven(heard);
                    }
                }
            }
        }
    }

    fn is_proven(&mut self, now: Instant) {
        self.proven = now;
        let was_suspended = self.queue.resume();
        if was_suspended && std::mem::replace(&mut self.was_followed, true) {
            info!("etcd is followed again");
        }
    }

    /// Publishes what a message tells of; whether our marker is in it.
    async fn take(&self, marker: &str, message: &WatchResponse) -> Result<bool, Failure> {
        let names = &self.ground.names;
        let mut is_marked = false;
        for event in message.events() {
            let Some(pair) = event.kv() else { continue };
            let is_put = event.event_type() == EventType::Put;
            if pair.key() == marker.as_bytes() {
                match read_note(pair.value()).filter(|_| is_put) {
                    Some((instance, _)) if instance == self.instance => is_marked = true,
                    Some(_) => {
                        warn!(name = self.name, "another control plane on this store has the same --name")
                    }
                    None => {}
                }
            } else if let Some(name) = names.replica(pair.key()) {
                self.hear(name, read_note(pair.value()).filter(|_| is_put).map(|(_, note)| note));
            } else if is_put && pair.key().starts_with(names.log().as_bytes()) {
                self.ground.told(pair, &self.queue).await?;
            } else if !is_put && names.is_vital(pair.key()) {
                // Nothing else would tell before the next write. A look may tell more: somebody may have put another
                // one there.
                self.ground.catch_up(&self.queue).await?;
                return Err(Failure::Deleted(String::from_utf8_lossy(pair.key()).into_owned()));
            }
        }
        Ok(is_marked)
    }

    fn hear(&self, name: &str, note: Option<&[u8]>) {
        self.others.send_if_modified(|others| {
            let known = others.get(name).map(|known| &**known);
            if known == note {
                return false;
            }
            let others = Arc::make_mut(others);
            match note {
                Some(note) => others.insert(name.to_owned(), Bytes::copy_from_slice(note)),
                None => others.remove(name),
            };
            true
        });
    }

    async fn look_for_others(&self, member: &Member) -> Result<(), Failure> {
        let names = &self.ground.names;
        let options = GetOptions::new().with_range(end_of(&names.replicas()));
        let found = member.kv().get(names.replicas(), Some(options)).await?;
        let note = |pair: &KeyValue| {
            let name = names.replica(pair.key()).filter(|name| *name != self.name)?;
            Some((name.to_owned(), Bytes::copy_from_slice(read_note(pair.value())?.1)))
        };
        let found: BTreeMap<_, _> = found.kvs().iter().filter_map(note).collect();
        self.others.send_if_modified(|others| {
            let changed = **others != found;
            *others = Arc::new(found);
            changed
        });
        Ok(())
    }
}

fn read_note(value: &[u8]) -> Option<(Instance, &[u8])> {
    let (instance, note) = value.split_first_chunk::<8>()?;
    Some((Instance::from_le_bytes(*instance), note))
}
