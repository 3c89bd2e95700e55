//! What the one who commits and the one who follows share: whoever moves on does so alone.
//!
//! ```text
//!  committer ─▶ stage ─▶ transaction ─▶ publish ─┐
//!                                                ├─ under one lock: head's revision in etcd, published state
//!  follower ──▶ groups of the log ─▶ publish ────┘
//! ```

use std::sync::Arc;

use etcd_client::{
    Compare, CompareOp, DeleteOptions, GetOptions, KeyValue, Txn, TxnOp, TxnOpResponse, TxnResponse,
};
use tokio::sync::Mutex;

use super::super::{
    Change, CommitError, Guard, Revision, follow::Published, journal::Head, queue::Queue, state::Staged,
};
use super::error::Failure;
use super::layout::{Entry, Names, Nonce, Writes};
use super::members::Members;

/// Groups of the log that are read at a time.
const PAGE: i64 = 256;

/// The store, as this replica knows it.
#[derive(Debug)]
pub(super) struct Ground {
    pub(super) members: Members,
    pub(super) names: Names,
    pub(super) published: Arc<Published>,
    pub(super) standing: Mutex<Standing>,
}

/// Where this replica stands, and what of its own it does not know to be there.
#[derive(Debug)]
pub(super) struct Standing {
    /// etcd's revision of the head that is published.
    pub(super) head: i64,
    /// The group that was offered to etcd and not answered.
    offered: Option<Offered>,
}

impl Standing {
    /// With the head of this revision of etcd.
    pub(super) const fn at(head: i64) -> Self {
        Self { head, offered: None }
    }
}

/// A group on its way: whoever finds it in the log first, settles it.
#[derive(Debug)]
struct Offered {
    nonce: Nonce,
    outcomes: Vec<Result<Revision, CommitError>>,
}

/// What is to be committed, and what must hold for it.
pub(super) type Wish = (Vec<Change>, Vec<Guard>);

/// An attempt to commit a group.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attempt {
    /// Names the group.
    pub(super) nonce: Nonce,
    /// It is not the first one.
    pub(super) is_repeated: bool,
}

/// What became of a group.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is durable, published and answered.
    Done,
    /// Others were first. What they have committed is published.
    Overtaken,
}

/// A group, decided on what is published.
struct Decided {
    staged: Staged,
    outcomes: Vec<Result<Revision, CommitError>>,
    writes: Writes,
}

impl Ground {
    /// Decides a group on what is published, and commits what of it can be. An attempt may be repeated, with the same
    /// nonce, until one says that it is done: it is done once.
    pub(super) async fn commit(
        &self,
        wishes: &[Wish],
        attempt: Attempt,
        queue: &Queue,
    ) -> Result<Outcome, Failure> {
        let mut standing = self.standing.lock().await;
        if attempt.is_repeated && standing.offered.is_none() {
            // The follower has found it in the log since.
            return Ok(Outcome::Done);
        }
        let nonce = attempt.nonce;
        let Decided { staged, outcomes, writes } = self.decide(wishes, nonce);
        if staged.batches().is_empty() {
            standing.offered = None;
            queue.settle(outcomes, || ());
            return Ok(Outcome::Done);
        }
        standing.offered = Some(Offered { nonce, outcomes });
        let seen = Compare::mod_revision(self.names.head(), CompareOp::Equal, standing.head);
        let txn = Txn::new().when([seen]).and_then(operations(writes)).or_else(self.missed());
        let answer = self.transact(txn).await?;
        if answer.succeeded() {
            standing.head = answer.header().map_or(standing.head, |header| header.revision());
            self.publish(&mut standing, nonce, staged, queue);
            return Ok(Outcome::Done);
        }
        let Missed { groups, stands, .. } = self.read_missed(&answer)?;
        groups.iter().try_for_each(|group| self.take(&mut standing, group, queue))?;
        self.agree(stands)?;
        Ok(if standing.offered.is_none() { Outcome::Done } else { Outcome::Overtaken })
    }

    /// Publishes what a group has made of the state, and answers those whose it is, if it is ours.
    fn publish(&self, standing: &mut Standing, nonce: Nonce, staged: Staged, queue: &Queue) {
        match standing.offered.take_if(|offered| offered.nonce == nonce) {
            Some(ours) => {
                queue.settle(ours.outcomes, || self.published.publish(staged));
            }
            None => self.published.publish(staged),
        }
    }

    fn decide(&self, wishes: &[Wish], nonce: Nonce) -> Decided {
        let state = self.published.state();
        let mut staged = Staged::on(&state);
        let outcomes = wishes
            .iter()
            .map(|(changes, guards)| {
                staged.stage(&state, changes.clone(), guards).map_err(CommitError::Conflict)
            })
            .collect();
        let writes = self.names.writes(&state, &staged, nonce);
        Decided { staged, outcomes, writes }
    }

    /// Publishes everything in the log that is not published yet; answers etcd's revision, after which the watch goes
    /// on.
    pub(super) async fn catch_up(&self, queue: &Queue) -> Result<i64, Failure> {
        let mut standing = self.standing.lock().await;
        loop {
            let answer = self.transact(Txn::new().and_then(self.missed())).await?;
            let Missed { groups, stands, more } = self.read_missed(&answer)?;
            groups.iter().try_for_each(|group| self.take(&mut standing, group, queue))?;
            if !more {
                self.agree(stands)?;
                return Ok(answer.header().map_or(standing.head, |header| header.revision()));
            }
        }
    }

    /// Publishes a group that the watch has told of.
    pub(super) async fn told(&self, group: &KeyValue, queue: &Queue) -> Result<(), Failure> {
        let mut standing = self.standing.lock().await;
        self.take(&mut standing, group, queue)
    }

    /// The newest revision in etcd.
    pub(super) async fn newest(&self) -> Result<Revision, Failure> {
        let member = self.members.member().await?;
        let answer = match member.kv().get(self.names.head(), None).await {
            Ok(answer) => answer,
            Err(error) => {
                self.members.leave(member.number).await;
                return Err(error.into());
            }
        };
        Ok(self.read_head(answer.kvs().first())?.revision)
    }

    /// Takes the marker of a replica away that ends: the others need not wait until it is forgotten.
    pub(super) async fn forget(&self, name: &str) {
        let Ok(member) = self.members.member().await else { return };
        // What is left is forgotten soon.
        let _ = member.kv().delete(format!("{}{name}", self.names.replicas()), None).await;
    }

    async fn transact(&self, txn: Txn) -> Result<TxnResponse, Failure> {
        let member = self.members.member().await?;
        match member.kv().txn(txn).await {
            Ok(answer) => Ok(answer),
            Err(error) => {
                self.members.leave(member.number).await;
                Err(error.into())
            }
        }
    }

    fn revision(&self) -> Revision {
        self.published.state().revision()
    }

    /// The log from the first group on that is not published, and where it ends.
    fn missed(&self) -> [TxnOp; 2] {
        let options = GetOptions::new().with_range(end_of(&self.names.log())).with_limit(PAGE);
        let log = TxnOp::get(self.names.group(self.revision().next()), Some(options));
        [log, TxnOp::get(self.names.head(), None)]
    }

    fn read_missed(&self, answer: &TxnResponse) -> Result<Missed, Failure> {
        let mut groups = Vec::new();
        let (mut head, mut more) = (None, false);
        for response in answer.op_responses() {
            let TxnOpResponse::Get(mut got) = response else { continue };
            more |= got.more();
            for pair in got.take_kvs() {
                if pair.key() == self.names.head().as_bytes() {
                    head = Some(pair);
                } else {
                    groups.push(pair);
                }
            }
        }
        Ok(Missed { groups, stands: self.read_head(head.as_ref())?, more })
    }

    fn read_head(&self, found: Option<&KeyValue>) -> Result<Head, Failure> {
        let name = self.names.head();
        match found {
            Some(pair) => self.names.read_head(pair.value()).ok_or(Failure::Corrupt(name)),
            None => Err(Failure::Deleted(name)),
        }
    }

    /// Whether what is published is, at its revision, what etcd has.
    fn agree(&self, stands: Head) -> Result<(), Failure> {
        let state = self.published.state();
        let here = state.revision();
        if stands.revision < here || (stands.revision == here && stands.hash != state.hash()) {
            return Err(Failure::Other { here });
        }
        Ok(())
    }

    fn entry(&self, group: &KeyValue) -> Result<Entry, Failure> {
        let corrupt = || Failure::Corrupt(String::from_utf8_lossy(group.key()).into_owned());
        self.names.entry(group.key(), group.value()).ok_or_else(corrupt)
    }

    fn take(&self, standing: &mut Standing, group: &KeyValue, queue: &Queue) -> Result<(), Failure> {
        let Entry { nonce, batches, before } = self.entry(group)?;
        let staged = {
            let state = self.published.state();
            let here = state.revision();
            let first = batches.first().map_or(here, |batch| batch.revision);
            if first <= here {
                return Ok(());
            }
            if first != here.next() {
                return Err(Failure::Behind { here, there: first });
            }
            if before != state.hash() {
                return Err(Failure::Other { here });
            }
            let mut staged = Staged::on(&state);
            for batch in &batches {
                // Without guards none can fail.
                let _ = staged.stage(&state, batch.changes.to_vec(), &[]);
            }
            staged
        };
        standing.head = group.mod_revision();
        self.publish(standing, nonce, staged, queue);
        Ok(())
    }
}

/// What others have committed.
struct Missed {
    groups: Vec<KeyValue>,
    stands: Head,
    /// There are further ones.
    more: bool,
}

fn operations(writes: Writes) -> Vec<TxnOp> {
    let Writes { puts, deletes, trim } = writes;
    let puts = puts.into_iter().map(|(name, value)| TxnOp::put(name, value, None));
    let deletes = deletes.into_iter().map(|name| TxnOp::delete(name, None));
    let trim = trim.map(|before| {
        let (log, _) = before.rsplit_once('/').unwrap_or_default();
        TxnOp::delete(format!("{log}/"), Some(DeleteOptions::new().with_range(before.clone())))
    });
    puts.chain(deletes).chain(trim).collect()
}

/// The first name after all that begin with a prefix that ends in `/`.
pub(super) fn end_of(prefix: &str) -> String {
    let stem = prefix.strip_suffix('/').unwrap_or(prefix);
    format!("{stem}0")
}
