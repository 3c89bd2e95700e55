//! The lease: acquired, its endpoint published, and kept.
//!
//! ```text
//!  endpoint known ─▶ acquire(claim) ──granted──▶ hold ──endpoint changed──▶ UpdateEndpoint
//!                       ▲    │ refused             │ └─a family added──▶ acquire(claim), and hold on
//!                       └────┴── wait, hint ◀──────┘ the server does not know it (any more)
//! ```
//!
//! The open watch renews it, and tells of pools of a family that the lease lacks. What is held stays as it is
//! while more is asked for, whatever the answer.
//! Whatever the server says, the datapath stays as it is: a lost lease makes
//! the node not ready and is named.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use loden_proto::model::{Endpoint, Epoch, Family, Network};
use loden_proto::reason::{self, Reason};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tonic::{Code, Status};
use tracing::{debug, info, warn};

use crate::control::{ControlPlane, Granted};
use crate::give_back::{self, GiveBack};
use crate::problem::Problem;
use crate::session::{Timing, backoff};
use crate::state::Held;
use crate::status::{LeaseView, Link};

/// Between attempts that were refused for a reason that lasts.
const REFUSED: Duration = Duration::from_secs(5);

/// Between attempts while leases are collected, at the longest: that may end before the time that was told.
const COLLECTING: Duration = Duration::from_secs(15);

/// Between attempts to get more than what is held, at the longest.
const MORE: Duration = Duration::from_secs(60);

/// What the control plane is told of this host, and what decides over that.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Local {
    /// What peers are told.
    pub(crate) endpoint: Endpoint,
    /// What the host reaches outside of the network.
    pub(crate) prefixes: Vec<IpNet>,
    /// All addresses of the host that others could send to.
    pub(crate) addresses: BTreeSet<IpAddr>,
}

/// Keeps one lease until its channels close.
pub(crate) struct Lease {
    pub(crate) control: ControlPlane,
    pub(crate) timing: Timing,
    /// What is to be published; none until it is known.
    pub(crate) local: watch::Receiver<Option<Local>>,
    pub(crate) view: watch::Sender<LeaseView>,
    /// How many members the network has, while its pools are of a family that the lease lacks.
    pub(crate) lacking: watch::Receiver<Option<usize>>,
    /// The watch, which sees first that the server is there again.
    pub(crate) link: watch::Receiver<Link>,
    /// Somebody has seen that the server may not know the lease.
    pub(crate) again: Arc<Notify>,
    pub(crate) giving: GiveBack,
}

/// The other side of a channel is gone: the agent is ending.
struct Ending;

impl Lease {
    pub(crate) async fn run(mut self) {
        let ended = self.keep().await;
        debug_assert!(ended.is_err());
    }

    async fn keep(&mut self) -> Result<(), Ending> {
        let mut failures = 0;
        // What of ours was refused as invalid, one time after the other: our receivers first, then our claim too.
        // A network that was deleted and made again has another VNI and perhaps other pools, and tells them with
        // the lease. Any other answer says that what was left out may be right again: a server that collects
        // leases waits for the claim, and nothing is asked of it without one until it is done.
        let mut invalid = 0;
        let mut collected = Instant::now();
        loop {
            let Local { endpoint, prefixes, .. } = self.local().await?;
            let mut endpoint = self.giving.endpoint(endpoint, Instant::now());
            if invalid > 0 {
                endpoint.receivers.clear();
            }
            let held = self.view.borrow().held.clone();
            let claims = invalid < 2 || Instant::now() < collected;
            let claim = held.as_ref().filter(|_| claims).map(|(held, _)| held.subnets);
            match self.control.acquire(claim, &endpoint, &prefixes).await {
                Ok(granted) => {
                    (failures, invalid) = (0, 0);
                    self.giving.acquired();
                    let taken = self.settle(&granted, held);
                    self.hold(granted.held.epoch, endpoint, taken).await?;
                }
                Err(status) => {
                    let mut wait = wait(&self.timing, failures, &status);
                    if held.is_some() && claim.is_none() && is_about_new_subnets(&status) {
                        // Why the claim was refused is what counts, and still holds.
                        debug!(%status, "nothing is given without the claim");
                        if Reason::Adopting.is_of(&status) {
                            // All of it: nothing can come of asking without the claim before.
                            let told = reason::retry_after(&status).unwrap_or_default();
                            collected = Instant::now().checked_add(told).unwrap_or(collected);
                            wait = wait.min(REFUSED);
                        }
                    } else {
                        self.note("acquire", &status, false);
                    }
                    invalid = if status.code() == Code::InvalidArgument { invalid + 1 } else { 0 };
                    failures = failures.saturating_add(1);
                    if self.gives_back(&status, &endpoint).await {
                        continue;
                    }
                    tokio::select! {
                        () = sleep(wait) => {}
                        () = self.again.notified() => {}
                        changed = self.local.changed() => changed.map_err(|_| Ending)?,
                    }
                }
            }
        }
    }

    async fn local(&mut self) -> Result<Local, Ending> {
        let known = self.local.wait_for(Option::is_some).await.map_err(|_| Ending)?;
        known.clone().ok_or(Ending)
    }

    /// Takes in what was granted; true when it is not what we hold.
    fn settle(&self, granted: &Granted, held: Option<(Held, Network)>) -> bool {
        let lost = lost_subnet(held.as_ref(), granted);
        match &lost {
            Some(lost) => warn!(%lost, "lease not accepted"),
            None => info!(subnets = %granted.held.subnets, epoch = %granted.held.epoch, "lease acquired"),
        }
        let taken = lost.is_some();
        self.view.send_modify(|view| {
            if !taken {
                view.held = Some((granted.held, granted.network.clone()));
            }
            view.granted = true;
            view.confirmed = !taken;
            view.lost = lost;
            view.problem = None;
        });
        taken
    }

    /// Publishes what changes and asks for what is lacking, until the lease has to be acquired again.
    async fn hold(
        &mut self,
        mut epoch: Epoch,
        mut published: Endpoint,
        mut taken: bool,
    ) -> Result<(), Ending> {
        let mut failures = 0;
        let mut unanswered = 0;
        let mut ask = self.when_to_ask();
        loop {
            let Local { endpoint: mut wanted, prefixes, .. } = self.local().await?;
            if taken {
                // Nothing of the new lease is programmed: nobody shall send.
                wanted.receivers.clear();
            }
            if wanted == published {
                self.giving.published();
                if std::mem::take(&mut failures) > 0 {
                    // What was refused is wanted no more.
                    self.recovered(taken);
                }
                tokio::select! {
                    () = self.again.notified() => break,
                    changed = self.local.changed() => changed.map_err(|_| Ending)?,
                    changed = self.lacking.changed() => {
                        changed.map_err(|_| Ending)?;
                        (ask, unanswered) = (self.when_to_ask(), 0);
                    }
                    () = at(ask), if !taken => {
                        let held = self.view.borrow().held.clone();
                        let claim = held.as_ref().map(|(held, _)| held.subnets);
                        match self.control.acquire(claim, &wanted, &prefixes).await {
                            Ok(granted) => {
                                ask = None;
                                epoch = granted.held.epoch;
                                taken = self.settle(&granted, held);
                            }
                            Err(status) => {
                                self.note("extend", &status, taken);
                                if means_lost(&status) {
                                    break;
                                }
                                ask = Some(Instant::now() + self.patience(unanswered, &status));
                                unanswered = unanswered.saturating_add(1);
                            }
                        }
                    }
                }
                continue;
            }
            let before = self.link.borrow().opened;
            let Err(status) = self.control.update_endpoint(epoch, &wanted).await else {
                info!(endpoint = ?wanted, "endpoint published");
                published = wanted;
                failures = 0;
                self.recovered(taken);
                continue;
            };
            self.note("keep", &status, taken);
            if means_lost(&status) && status.code() != Code::AlreadyExists {
                break;
            }
            if self.gives_back(&status, &wanted).await {
                break;
            }
            tokio::select! {
                () = sleep(wait(&self.timing, failures, &status)) => {}
                () = self.again.notified() => break,
                changed = self.local.changed() => changed.map_err(|_| Ending)?,
                opened = self.link.wait_for(|link| link.opened > before) => drop(opened.map_err(|_| Ending)?),
            }
            failures = failures.saturating_add(1);
        }
        self.view.send_modify(|view| view.confirmed = false);
        Ok(())
    }

    /// Gives the lease back where all that it does is to keep its address from another host; true when it did.
    async fn gives_back(&mut self, status: &Status, wanted: &Endpoint) -> bool {
        if !self.giving.refused(status, Instant::now()) {
            return false;
        }
        let host = self.local.borrow().as_ref().map(|local| local.addresses.clone()).unwrap_or_default();
        let Ok(Some((epoch, published))) = self.control.published().await else { return false };
        if !give_back::is_in_the_way(&published, wanted, &host) {
            return false;
        }
        let released = self.control.release(epoch).await;
        self.giving.tried(released.is_ok().then(|| published.clone()), Instant::now());
        match &released {
            Ok(()) => info!(from = ?published, to = ?wanted, "lease given back for the sake of its address"),
            Err(status) => debug!(%status, "could not give the lease back"),
        }
        released.is_ok()
    }

    /// When to ask for what the lease lacks, if it lacks anything.
    fn when_to_ask(&mut self) -> Option<Instant> {
        let members = (*self.lacking.borrow_and_update())?;
        Some(Instant::now() + spread(members).mul_f64(rand::random()))
    }

    /// Between attempts to get more: nothing of what is held depends on it, and there may never be any.
    fn patience(&self, failures: u32, status: &Status) -> Duration {
        let timing = Timing { longest_wait: MORE, ..self.timing };
        backoff(&timing, failures, hint(status), rand::random())
    }

    /// A call went through again: what stood in the way is gone.
    fn recovered(&self, taken: bool) {
        self.view.send_if_modified(|view| {
            let problem = view.problem.take().is_some();
            if problem && !taken {
                view.lost = None;
                view.confirmed = true;
            }
            problem
        });
    }

    /// Keeps what a refusal says. Why the lease is lost is what the last one says; that our subnets were `taken` stays.
    fn note(&self, what: &str, status: &Status, taken: bool) {
        let problem = Problem::of(status);
        debug!(%problem, "could not {what} the lease");
        self.view.send_modify(|view| {
            // What we hold was claimed; if nothing is free, it belongs to somebody else. While it is confirmed,
            // more was asked for.
            let exhausted = status.code() == Code::ResourceExhausted;
            let given_away = exhausted && view.held.is_some() && !view.confirmed;
            let lost = means_lost(status) || given_away;
            let refused_anew = view.lost.is_some() && matches!(problem, Problem::Refused { .. });
            if lost {
                view.confirmed = false;
            }
            if (lost || refused_anew) && !taken {
                view.lost = Some(problem.to_string());
            }
            view.problem = Some(problem);
        });
    }
}

/// Whether the network has pools of a family that the lease has no subnet of.
pub(crate) fn lacks_a_family(held: &Held, network: &Network) -> bool {
    let has = |family| held.subnets.iter().any(|subnet| Family::of_net(subnet) == family);
    network.families().into_iter().any(|family| !has(family))
}

/// In what time all members of a network ask for more: a millisecond for each.
fn spread(members: usize) -> Duration {
    Duration::from_millis(members as u64)
}

/// Resolves at a time; never without one.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Whether a refusal says that the lease is not ours as it is; everything
/// else may pass and says nothing about the lease.
fn means_lost(status: &Status) -> bool {
    matches!(status.code(), Code::NotFound | Code::AlreadyExists | Code::Aborted | Code::FailedPrecondition)
}

/// Whether who asks without a claim is only told that nothing new is given, or not now.
fn is_about_new_subnets(status: &Status) -> bool {
    let refused = matches!(Problem::of(status), Problem::Refused { .. });
    refused && matches!(status.code(), Code::Unavailable | Code::ResourceExhausted)
}

/// Why what was granted cannot be used: a subnet of ours was given away meanwhile.
/// Where the network's pools have no such slot any more there is nothing to
/// keep, and what is granted is taken. So is what comes on top of ours, in
/// another family.
fn lost_subnet(held: Option<&(Held, Network)>, granted: &Granted) -> Option<String> {
    let (held, _) = held?;
    let is_lost = |subnet| {
        let exists = granted.network.slot(subnet).is_some();
        exists && granted.held.subnets.iter().all(|given| given != subnet)
    };
    held.subnets.iter().any(is_lost).then(|| {
        format!(
            "SUBNET_TAKEN: this node holds {} and was granted {}; it keeps forwarding for the old one \
             (to accept the new one, stop the agent and remove its state of this network)",
            held.subnets, granted.held.subnets
        )
    })
}

/// When the server wants to be asked again, as far as that is to be believed.
fn hint(status: &Status) -> Option<Duration> {
    let told = reason::retry_after(status)?;
    Some(if Reason::Adopting.is_of(status) { told.min(COLLECTING) } else { told })
}

fn wait(timing: &Timing, failures: u32, status: &Status) -> Duration {
    let lasting = matches!(
        status.code(),
        Code::AlreadyExists
            | Code::NotFound
            | Code::InvalidArgument
            | Code::FailedPrecondition
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::ResourceExhausted
    );
    let random = rand::random();
    match hint(status) {
        None if lasting && failures > 0 => REFUSED.mul_f64(0.5 + random / 2.0),
        hint => backoff(timing, failures, hint, random),
    }
}

#[cfg(test)]
mod tests;
