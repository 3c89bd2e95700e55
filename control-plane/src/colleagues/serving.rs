//! Whether another replica serves, as each answers itself: what notes say of it is old where the store is away.

use tonic::transport::Channel;
use tonic::{Request, Response, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::Colleagues;

/// Whether clients are better served by another replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refuge {
    /// One says that it serves.
    There,
    /// None says that it does, and one says nothing.
    Unknown,
    /// All say that they do not, or there is no other one.
    Nowhere,
}

impl Refuge {
    /// By what each of the others says.
    fn of(answers: &[Option<bool>]) -> Self {
        if answers.contains(&Some(true)) {
            Self::There
        } else if answers.contains(&None) {
            Self::Unknown
        } else {
            Self::Nowhere
        }
    }
}

impl Colleagues {
    /// Asks the others that were last heard of.
    pub(crate) async fn serving(&self) -> Refuge {
        let question = HealthCheckRequest { service: String::new() };
        let answers = self.ask_each(&question, check).await;
        Refuge::of(&answers.into_iter().map(|(_, serves)| serves).collect::<Vec<_>>())
    }
}

async fn check(channel: Channel, question: Request<HealthCheckRequest>) -> Result<Response<bool>, Status> {
    let answer = HealthClient::new(channel).check(question).await?;
    Ok(answer.map(|answer| answer.status() == ServingStatus::Serving))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_serves_is_enough_and_one_that_is_silent_may() {
        let (yes, no, silent) = (Some(true), Some(false), None);
        for (answers, refuge) in [
            (&[][..], Refuge::Nowhere),
            (&[no, no], Refuge::Nowhere),
            (&[no, silent], Refuge::Unknown),
            (&[silent, silent], Refuge::Unknown),
            (&[no, yes], Refuge::There),
            (&[silent, yes], Refuge::There),
        ] {
            assert_eq!(Refuge::of(answers), refuge, "{answers:?}");
        }
    }
}
