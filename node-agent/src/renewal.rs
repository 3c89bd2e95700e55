//! The node's certificate: renewed at half of its life, with another key, for ever.
//!
//! ```text
//!  half of its life, other CAs ─▶ new key, request ─▶ RenewCertificate ─▶ identity directory ─┐
//!  somebody has put another one there ─────────────────────────────────────────────┴─▶ new connection
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

impl Renewal {
    /// Runs for ever.
    pub async fn run(mut self) {
        let mut used = Bundle::read(&self.identity).ok();
        let mut chance = rand::random();
        let mut failed = 0;
        let mut asked = None;
        let mut not_before = Instant::now();
        loop {
            let Some(holder) = used.as_ref().and_then(|bundle| bundle.holder().ok()) else {
                sleep(LOOK).await;
                used = Bundle::read(&self.identity).ok();
                continue;
            };
            self.metrics.expires.set(seconds(holder.expires));
            let shortly = if asked.is_some() { look(&holder).min(SHORTLY) } else { look(&holder) };
            tokio::select! {
                () = sleep(shortly) => {}
                Ok(()) = self.generation.changed() => {}
            }
            let found = Bundle::read(&self.identity).ok();
            if found.is_some() && found != used {
                info!("another certificate is in the identity directory");
                used = found;
                self.replace_connection().await;
                continue;
            }
            let now = SystemTime::now();
            let is_time = due(&holder, chance) <= now || self.other_trust(&holder, now, &mut asked, chance);
            let Some(before) =
                used.as_ref().filter(|_| self.renews && is_time && not_before <= Instant::now())
            else {
                continue;
            };
            match self.renew(before).await {
                Ok(Some(bundle)) => {
                    self.metrics.renewals.inc();
                    debug!(id = %bundle.id(), "certificate renewed");
                    used = Some(bundle);
                    (chance, failed, asked) = (rand::random(), 0, None);
                    self.replace_connection().await;
                }
                // The next look takes it up.
                Ok(None) => debug!("the certificate is not renewed: there is another identity"),
                Err(problem) => {
                    self.metrics.failures.inc();
                    tell(&holder, &problem, now);
                    failed += 1;
                    // Half of its life is left for attempts.
                    not_before = Instant::now() + look(&holder) * failed.min(10);
                }
            }
        }
    }

    /// Whether other CAs are to be trusted than came with the certificate, and it is time to ask for them: not all
    /// nodes at once.
    fn other_trust(
        &self,
        holder: &Holder,
        now: SystemTime,
        heard: &mut Option<SystemTime>,
        chance: f64,
    ) -> bool {
        let generation = *self.generation.borrow();
        if generation == 0 || generation == holder.generation {
            *heard = None;
            return false;
        }
        now >= *heard.get_or_insert(now) + spread(holder).mul_f64(chance)
    }

    /// Gets another certificate in the place of that of `before`; none where that has another one by then.
    async fn renew(&self, before: &Bundle) -> Result<Option<Bundle>, String> {
        let request = KeyRequest::new().map_err(|error| error.to_string())?;
        let wanted = v1::RenewCertificateRequest { certificate_request: request.der().to_vec() };
        let mut client = IdentityServiceClient::new(self.channels.borrow().clone());
        let answer = answered(client.renew_certificate(wanted)).await;
        let certificate = answer.map_err(|status| explain(&status))?;
        let bundle = Bundle::from_pem(certificate.trust, certificate.chain, request.key_pem().to_owned());
        let bundle = bundle.map_err(|error| error.to_string())?;
        if *bundle.id() != self.credentials.id() {
            return Err(format!("the control plane has sent a certificate of {}", bundle.id()));
        }
        let replaced = bundle.replace(&self.identity, before).map_err(|error| error.to_string())?;
        Ok(Some(bundle).filter(|_| replaced))
    }

    /// Connects with what is in the directory now, and lets everybody use that.
    async fn replace_connection(&self) {
        match connect(&self.servers, &self.credentials, &self.options).await {
            Ok(channel) => drop(self.channels.send_replace(channel)),
            // The old one goes on, and dials with the new certificate when it is lost.
            Err(error) => warn!(%error, "no connection with the new certificate yet"),
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
        let holder = Holder { id, epoch: 0, generation: 0, begins, expires };
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
