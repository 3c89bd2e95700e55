//! Drives a [`Session`] over a real stream.
//!
//! ```text
//!  stream, timer ──Input──▶ Session ──Effect──▶ open, close
//!                                        └────▶ Feed (whole updates, in order) ──▶ reconcile
//! ```
//!
//! The feed is bounded: while the kernel is busy nothing is read, and the
//! server folds what comes meanwhile.

use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;

use loden_proto::reason::{self, Reason};
use loden_proto::v1::WatchPeersResponse;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tonic::{Code, Status, Streaming};
use tracing::debug;

use crate::control::{self, ControlPlane};
use crate::peers::{Token, Update};
use crate::problem::Problem;
use crate::session::{Effect, Input, Session};
use crate::status::{LeaseView, Link};

/// What reconcile is told, in order.
#[derive(Debug)]
pub(crate) enum Feed {
    /// A whole update.
    Update(Update),
    /// The set that came last is the server's; whether that is all there is.
    /// Where that is, when it moved without a change of the set.
    Current { adopting: bool, token: Option<Token> },
}

/// Follows the peers until its channels close.
pub(crate) struct Follow {
    pub(crate) control: ControlPlane,
    pub(crate) session: Session,
    pub(crate) lease: watch::Receiver<LeaseView>,
    pub(crate) feed: mpsc::Sender<Feed>,
    pub(crate) link: watch::Sender<Link>,
    /// Tells the lease's keeper to acquire again.
    pub(crate) again: Arc<Notify>,
}

type Opening = Pin<Box<dyn Future<Output = Result<Streaming<WatchPeersResponse>, Status>> + Send>>;

enum Line {
    Idle,
    Opening(Opening),
    Open(Box<Streaming<WatchPeersResponse>>),
}

impl Follow {
    pub(crate) async fn run(mut self) {
        if self.lease.wait_for(|view| view.granted).await.is_err() {
            return;
        }
        self.session.hasten(Instant::now());
        let mut line = Line::Idle;
        // What was told of the present stream.
        let mut told = None;
        loop {
            let input = tokio::select! {
                // What has come counts before the time that passed meanwhile.
                biased;
                input = line.next() => input,
                () = self.control.moved() => Ok(Input::Moved),
                () = sleep_until(self.session.deadline()) => Ok(Input::DeadlinePassed),
            };
            let input = input.unwrap_or_else(|status| {
                let was_open = matches!(line, Line::Open(_));
                line = Line::Idle;
                self.ended(&status, was_open)
            });
            if input == Input::Opened {
                told = None;
                self.link.send_modify(|link| {
                    link.connected = true;
                    link.opened += 1;
                    link.problem = None;
                });
            }
            for effect in self.session.handle(input, Instant::now(), rand::random()) {
                match effect {
                    Effect::Open { resume, seen } => {
                        line = Line::Opening(Box::pin(self.control.clone().watch(resume, seen)));
                    }
                    Effect::Close(reason) => {
                        line = Line::Idle;
                        debug!(%reason, "watch dropped");
                        self.down(reason.into());
                    }
                    Effect::Apply(update) => {
                        if self.feed.send(Feed::Update(update)).await.is_err() {
                            return;
                        }
                    }
                    Effect::Current { adopting, token } if told != Some(adopting) || token.is_some() => {
                        if adopting && told != Some(adopting) {
                            // The server has lost its store: it must hear of
                            // our lease from us.
                            self.again.notify_one();
                        }
                        told = Some(adopting);
                        if self.feed.send(Feed::Current { adopting, token }).await.is_err() {
                            return;
                        }
                    }
                    Effect::Current { .. } => {}
                }
            }
        }
    }

    fn ended(&self, status: &Status, was_open: bool) -> Input {
        debug!(%status, "watch ended");
        // Who is sent on, in good order, has lost nobody: only one that is not taken in again has.
        if !(was_open && Reason::Draining.is_of(status)) {
            self.down(Problem::of(status));
        }
        if matches!(
            status.code(),
            Code::NotFound | Code::AlreadyExists | Code::FailedPrecondition | Code::Aborted
        ) {
            self.again.notify_one();
        }
        Input::Ended(reason::retry_after(status))
    }

    fn down(&self, problem: Problem) {
        self.link.send_modify(|link| {
            link.connected = false;
            link.problem = Some(problem);
        });
    }
}

impl Line {
    async fn next(&mut self) -> Result<Input, Status> {
        match self {
            Self::Idle => pending().await,
            Self::Opening(opening) => {
                *self = Self::Open(Box::new(opening.await?));
                Ok(Input::Opened)
            }
            Self::Open(stream) => match stream.message().await? {
                Some(wire) => control::message(wire).map(Input::Message),
                None => Err(Status::unavailable("the server closed the watch")),
            },
        }
    }
}
