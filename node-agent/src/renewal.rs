//! The node's certificate: renewed at half of its life, with another key, for ever.
//!
//! ```text
//!  half of its life, other CAs ─▶ new key, request ─▶ RenewCertificate ─▶ identity directory ─┐
//!  somebody has put another one there ─────────────────────────────────────────────┴─▶ new connection,
//!                                                                                       until there is one
//! ```
//!
//! As long as none comes the old one is used, and said to end; one that has ended keeps nobody from forwarding.

use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime};

use loden_proto::v1;
use loden_proto::v1::identity_service_client::IdentityServiceClient;
use loden_transport::{
    Bundle, ConnectOptions, Credentials, Holder, KeyRequest, ServerAddress, connect, explain,
};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tonic::transport::Channel;
use tracing::{debug, error, info, warn};

use crate::control::answered;

/// How often the clock and the files are looked at, at least.
const LOOK: Duration = Duration::from_secs(30);
/// In how many parts of its life.
const PARTS: u32 = 50;
/// How often a connection is tried to be made with the present certificate.
const REDIAL: Duration = Duration::from_secs(5);
/// How often it is looked whether it is time to ask for other CAs.
const SHORTLY: Duration = Duration::from_millis(250);
/// Over how long a fleet asks at most, after it has heard of other CAs.
const SPREAD: Duration = Duration::from_secs(20);

/// Keeps the certificate.
pub struct Renewal {
    /// The directory of the identity.
    pub identity: PathBuf,
    /// The control plane.
    pub servers: Vec<ServerAddress>,
    /// The same identity, as it is connected with.
    pub credentials: Credentials,
    /// How it is connected.
    pub options: ConnectOptions,
    /// The connection that everybody uses.
    pub channels: watch::Sender<Channel>,
    /// Which CAs are to be trusted, as the control plane says; 0 until it has.
    pub generation: watch::Receiver<u32>,
    /// Whether certificates come from here: else somebody puts them there.
    pub renews: bool,
    /// What is counted.
    pub metrics: RenewalMetrics,
}

/// What is known of the certificate.
#[derive(Clone, Debug, Default)]
pub struct RenewalMetrics {
    expires: Gauge<f64, AtomicU64>,
    renewals: Counter,
    failures: Counter,
}

impl RenewalMetrics {
    /// Makes them visible.
    pub fn register(&self, registry: &mut Registry) {
        let help = "When the node's certificate ends, in seconds since 1970";
        registry.register("loden_agent_certificate_expires_seconds", help, self.expires.clone());
        let help = "Certificates that the control plane gave in place of another one";
        registry.register("loden_agent_certificate_renewals", help, self.renewals.clone());
        let help = "Attempts to get one that failed";
        registry.register("loden_agent_certificate_renewal_failures", help, self.failures.clone());
    }
}

/// When a certificate is renewed: at half of its life, a tenth of that sooner or later as chance (0 to 1) has it.
fn due(holder: &Holder, chance: f64) -> SystemTime {
    holder.made() + holder.life().mul_f64(0.45 + 0.1 * chance)
}

/// Over how long nodes that hear of other CAs ask for them.
fn spread(holder: &Holder) -> Duration {
    look(holder).min(SPREAD)
}

/// How long until it is looked again, with so much of its life left.
fn look(holder: &Holder) -> Duration {
    (holder.life() / PARTS).clamp(Duration::from_millis(20), LOOK)
}

/// Where the certificate stands.
struct Course {
    /// What was in the directory when it was looked at.
    seen: Bundle,
    /// The present one: the same, unless the directory cannot be written.
    used: Bundle,
    holder: Holder,
    /// The connection was made with another one.
    behind: bool,
    /// That it is so was told.
    told: bool,
    /// When in the middle of its life it is renewed.
    chance: f64,
    /// When other CAs were first heard of.
    heard: Option<SystemTime>,
    failed: u32,
    /// No attempt to renew it before.
    next: Instant,
}

impl Course {
    /// With what is in the directory.
    fn of(found: Bundle, behind: bool) -> Option<Self> {
        let holder = found.holder().ok()?;
        let (chance, next) = (rand::random(), Instant::now());
        Some(Self {
            seen: found.clone(),
            used: found,
            holder,
            behind,
            told: false,
            chance,
            heard: None,
            failed: 0,
            next,
        })
    }

    fn is_kept(&self) -> bool {
        self.seen == self.used
    }

    /// How long until it is looked again.
    fn look(&self) -> Duration {
        let look = look(&self.holder);
        match (self.behind, self.heard) {
            (true, _) => look.min(REDIAL),
            (false, Some(_)) => look.min(SHORTLY),
            (false, None) => look,
        }
    }
}

impl Renewal {
    /// Runs for ever.
    pub async fn run(mut self) {
        let mut course = loop {
            match Bundle::read(&self.identity).ok().and_then(|found| Course::of(found, false)) {
                Some(course) => break course,
                None => sleep(LOOK).await,
            }
        };
        loop {
            self.metrics.expires.set(seconds(course.holder.expires));
            tokio::select! {
                () = sleep(course.look()) => {}
                Ok(()) = self.generation.changed() => {}
            }
            self.take_up(&mut course);
            if course.behind {
                self.replace_connection(&mut course).await;
            }
            let now = SystemTime::now();
            let is_time = due(&course.holder, course.chance) <= now || self.other_trust(&mut course, now);
            if self.renews && is_time && course.next <= Instant::now() {
                self.renew_in_time(&mut course, now).await;
            }
        }
    }

    /// Takes up what somebody has put into the directory, and keeps there what could not be kept.
    fn take_up(&self, course: &mut Course) {
        let Ok(found) = Bundle::read(&self.identity) else { return };
        if found != course.seen {
            if let Some(other) = Course::of(found, true) {
                info!("another certificate is in the identity directory");
                *course = other;
            }
            return;
        }
        if !course.is_kept() && course.used.replace(&self.identity, &course.seen).is_ok_and(|kept| kept) {
            info!("the certificate is in the identity directory now");
            course.seen = course.used.clone();
        }
    }

    async fn renew_in_time(&self, course: &mut Course, now: SystemTime) {
        match self.renew(&course.used).await {
            Ok((bundle, holder)) => {
                self.metrics.renewals.inc();
                debug!(id = %bundle.id(), "certificate renewed");
                match bundle.replace(&self.identity, &course.seen) {
                    Ok(true) => course.seen = bundle.clone(),
                    // The next look takes up what is there.
                    Ok(false) => return,
                    // It is good without a file as long as this process lives.
                    Err(error) => warn!(%error, "the renewed certificate cannot be kept yet"),
                }
                (course.used, course.holder) = (bundle, holder);
                (course.chance, course.failed, course.heard) = (rand::random(), 0, None);
                course.behind = true;
                self.replace_connection(course).await;
            }
            Err(problem) => {
                self.metrics.failures.inc();
                tell(&course.holder, &problem, now);
                course.failed += 1;
                // Half of its life is left for attempts.
                course.next = Instant::now() + look(&course.holder) * course.failed.min(10);
            }
        }
    }

    /// Whether other CAs are to be trusted than came with the certificate, and it is time to ask for them: not all
    /// nodes at once.
    fn other_trust(&self, course: &mut Course, now: SystemTime) -> bool {
        let generation = *self.generation.borrow();
        if generation == 0 || generation == course.holder.generation {
            course.heard = None;
            return false;
        }
        let heard = *course.heard.get_or_insert(now);
        now >= heard + spread(&course.holder).mul_f64(course.chance)
    }

    /// Gets another certificate for the node of `before`.
    async fn renew(&self, before: &Bundle) -> Result<(Bundle, Holder), String> {
        let request = KeyRequest::new().map_err(|error| error.to_string())?;
        let wanted = v1::RenewCertificateRequest { certificate_request: request.der().to_vec() };
        let mut client = IdentityServiceClient::new(self.channels.borrow().clone());
        let answer = answered(client.renew_certificate(wanted)).await;
        let certificate = answer.map_err(|status| explain(&status))?;
        let bundle = Bundle::from_pem(certificate.trust, certificate.chain, request.key_pem().to_owned());
        let bundle = bundle.map_err(|error| error.to_string())?;
        if bundle.id() != before.id() {
            return Err(format!("the control plane has sent a certificate of {}", bundle.id()));
        }
        let holder = bundle.holder().map_err(|error| error.to_string())?;
        Ok((bundle, holder))
    }

    /// Connects with the present certificate, and lets everybody use that; until it succeeds the connection is
    /// behind: calls over it end with the certificate that it was made with.
    async fn replace_connection(&self, course: &mut Course) {
        let credentials = match course.is_kept() {
            true => Ok(self.credentials.clone()),
            false => Credentials::fixed(&course.used),
        };
        let connected = match credentials {
            Ok(credentials) => connect(&self.servers, &credentials, &self.options).await,
            Err(error) => Err(error),
        };
        match connected {
            Ok(channel) => {
                (course.behind, course.told) = (false, false);
                drop(self.channels.send_replace(channel));
            }
            Err(error) => {
                if !course.told {
                    warn!(%error, "no connection with the new certificate yet");
                }
                course.told = true;
            }
        }
    }
}

fn tell(holder: &Holder, problem: &str, now: SystemTime) {
    let ends = humantime::format_rfc3339_seconds(holder.expires);
    if holder.expires <= now {
        error!(
            id = %holder.id, ended = %ends, problem,
            "THE CERTIFICATE OF THIS NODE HAS ENDED: forwarding stays as it is, and changes no more; join again with a \
             token (loden-agent join)"
        );
    } else {
        warn!(id = %holder.id, %ends, problem, "the certificate is not renewed yet");
    }
}

fn seconds(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use loden_transport::BACK_DATED;

    use super::*;

    #[test]
    fn it_is_renewed_at_half_of_its_life_more_or_less() {
        let made = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let life = Duration::from_secs(24 * 3600);
        let id = "spiffe://demo/node/a".parse().unwrap();
        let (begins, expires) = (made - BACK_DATED, made + life);
        let holder = Holder { id, epoch: 0, generation: 0, root: None, begins, expires };
        let after =
            |chance| due(&holder, chance).duration_since(made).unwrap().as_secs_f64() / life.as_secs_f64();
        for (chance, part) in [(0.0, 0.45), (0.5, 0.5), (1.0, 0.55)] {
            assert!((after(chance) - part).abs() < 1e-6, "{}", after(chance));
        }
        assert_eq!(look(&holder), LOOK);
        let short = Holder { expires: made + Duration::from_secs(2), ..holder };
        assert_eq!(look(&short), Duration::from_millis(40));
    }
}
