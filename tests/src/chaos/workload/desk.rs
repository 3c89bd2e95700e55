//! One client's calls: made one after the other, and written down with what they came to.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use loden_proto::reason::Reason;
use loden_proto::v1;
use loden_transport::is_unreachable;
use rand::Rng;
use rand::rngs::StdRng;
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::{Code, Response, Status};

use crate::history::{Call, Held, Outcome, Recorder, Slot, Thing, Wish};

/// How long an answer is waited for: longer than it takes to notice that a connection is dead.
const ANSWER: Duration = Duration::from_secs(12);
/// Between two calls, in ms.
const PAUSE: Range<u64> = 20..200;

/// Where the calls about one thing are made.
pub(super) struct Desk {
    pub(super) recorder: Arc<Recorder>,
    pub(super) thing: Thing,
    pub(super) random: StdRng,
    pub(super) stopped: watch::Receiver<bool>,
}

impl Desk {
    /// Waits for a moment; answers whether to go on.
    pub(super) async fn pause(&mut self) -> bool {
        let pause = Duration::from_millis(self.random.random_range(PAUSE));
        // That it is over is the only news there can be.
        timeout(pause, self.stopped.wait_for(|stopped| *stopped)).await.is_err()
    }

    /// Makes a call. `held` reads what there is from its answer.
    pub(super) async fn call<T>(
        &self,
        wish: Wish,
        call: impl Future<Output = Result<Response<T>, Status>>,
        held: impl FnOnce(T) -> anyhow::Result<Option<Held>>,
    ) -> anyhow::Result<Outcome> {
        let begin = self.recorder.now();
        let outcome = match timeout(ANSWER, call).await {
            Ok(Ok(answer)) => Outcome::Done(held(answer.into_inner())?),
            Ok(Err(status)) => came_to(&status),
            Err(_) => Outcome::Unknown,
        };
        let (thing, end) = (self.thing.clone(), self.recorder.now());
        self.recorder.call(Call { thing, wish, begin, end, outcome: outcome.clone() });
        Ok(outcome)
    }
}

/// What a call that failed came to: whether it has not been done for sure.
fn came_to(status: &Status) -> Outcome {
    // Nobody was there to hear of it.
    let unheard = is_unreachable(status);
    let refused = match status.code() {
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Unauthenticated => true,
        Code::Aborted => Reason::StaleEpoch.is_of(status),
        Code::Unavailable => {
            [Reason::Settling, Reason::Adopting, Reason::FormerLife].iter().any(|reason| reason.is_of(status))
        }
        _ => false,
    };
    if unheard || refused { Outcome::Refused } else { Outcome::Unknown }
}

/// What a lease is, for the history.
pub(super) fn held(lease: &v1::Lease) -> anyhow::Result<Held> {
    let instance = u128::from_str_radix(&lease.instance_id, 16);
    let instance =
        instance.with_context(|| format!("{} has instance {:?}", lease.name, lease.instance_id))?;
    Ok(Held { slots: subnets(&lease.subnets)?, epoch: lease.epoch, instance })
}

/// The same of a reservation.
pub(super) fn reserved(reservation: &v1::Reservation) -> anyhow::Result<Held> {
    Ok(Held { slots: subnets(&reservation.subnets)?, epoch: 0, instance: 0 })
}

/// The same of a network.
pub(super) fn founded(network: &v1::Network) -> anyhow::Result<Held> {
    let vni = network.vni.with_context(|| format!("{} has no VNI", network.name))?;
    Ok(Held { slots: vec![Slot::Vni(vni)], epoch: 0, instance: 0 })
}

fn subnets(subnets: &[String]) -> anyhow::Result<Vec<Slot>> {
    subnets.iter().map(|subnet| Ok(Slot::Subnet(subnet.parse()?))).collect()
}

#[cfg(test)]
mod tests {
    use loden_proto::reason;

    use super::*;

    #[test]
    fn only_a_clear_no_is_a_refusal() {
        for code in [Code::NotFound, Code::ResourceExhausted, Code::FailedPrecondition] {
            assert_eq!(came_to(&Status::new(code, "no")), Outcome::Refused);
        }
        let settling = reason::status(Code::Unavailable, Reason::Settling, "not yet".to_owned());
        assert_eq!(came_to(&settling), Outcome::Refused);
        let stale = reason::status(Code::Aborted, Reason::StaleEpoch, "an older one".to_owned());
        assert_eq!(came_to(&stale), Outcome::Refused);
        let failed = reason::status(Code::Unavailable, Reason::StoreFailed, "no majority".to_owned());
        for status in [failed, Status::aborted("16 times"), Status::unknown("reset"), Status::cancelled("")] {
            assert_eq!(came_to(&status), Outcome::Unknown, "{status:?}");
        }
    }
}
