//! A plan, carried out.
//!
//! ```text
//!  steps in their order ─▶ begin: kill -9 | SIGSTOP | a rule that drops | a clock that jumps ─▶ how it ends
//!                         end:   start   | SIGCONT | no rule          | a clock that is right
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep_until, timeout};

use super::plan::{Actor, Fault, Plan};
use super::site::Site;
use crate::bench::Say;
use crate::hosts::Host;

/// How long a leader is looked for; where there is none nobody is killed.
const ELECTION: Duration = Duration::from_secs(3);

/// What ends a fault.
enum Remedy {
    Spawn(Actor),
    Continue(Actor),
    /// Removes this table of the host's packet filter.
    Mend(Host, String),
    SetClock(Actor),
}

impl Site {
    /// Plays it to its end: then everything runs, and everybody reaches everybody. Answers how many faults there were.
    pub(super) async fn play(&mut self, plan: &Plan, say: &Say<'_>) -> anyhow::Result<usize> {
        let begin = Instant::now();
        let (mut remedies, mut happened) = (BTreeMap::new(), 0);
        for step in plan.steps() {
            sleep_until(begin + step.at).await;
            self.revive()?;
            if step.begins {
                let fault = plan.faults[step.place].fault;
                if let Some(remedy) = self.begin(step.place, fault).await? {
                    say(&format!("{:.1} s: {fault}", begin.elapsed().as_secs_f64()));
                    remedies.insert(step.place, remedy);
                    happened += 1;
                }
            } else if let Some(remedy) = remedies.remove(&step.place) {
                self.end(remedy)?;
            }
        }
        self.revive()?;
        Ok(happened)
    }

    /// Answers how it ends; `None` if whom it hits is down already.
    async fn begin(&mut self, place: usize, fault: Fault) -> anyhow::Result<Option<Remedy>> {
        match fault {
            Fault::Kill(actor) => self.kill(actor).await,
            Fault::KillLeader => match timeout(ELECTION, self.replicated.etcd.leader()).await {
                Ok(Ok(member)) => self.kill(Actor::Member(member)).await,
                Ok(Err(_)) | Err(_) => Ok(None),
            },
            Fault::Stop(actor) => {
                if self.process(actor).is_none() {
                    return Ok(None);
                }
                self.signal(actor, Signal::SIGSTOP)?;
                Ok(Some(Remedy::Continue(actor)))
            }
            Fault::Cut(here, there) => {
                let ((host, _), (_, address)) = (self.seat(here)?, self.seat(there)?);
                let family = if address.is_ipv4() { "ip" } else { "ip6" };
                let table = format!("inet chaos{place}");
                host.nft(&format!(
                    "table {table} {{
                        chain input {{ type filter hook input priority -300; {family} saddr {address} drop; }}
                        chain output {{ type filter hook output priority -300; {family} daddr {address} drop; }}
                    }}"
                ))?;
                Ok(Some(Remedy::Mend(host, table)))
            }
            Fault::Jump(actor, seconds) => {
                self.jump(actor, seconds)?;
                Ok(Some(Remedy::SetClock(actor)))
            }
        }
    }

    async fn kill(&mut self, actor: Actor) -> anyhow::Result<Option<Remedy>> {
        if self.process(actor).is_none() {
            return Ok(None);
        }
        self.kill9(actor).await?;
        Ok(Some(Remedy::Spawn(actor)))
    }

    fn end(&mut self, remedy: Remedy) -> anyhow::Result<()> {
        match remedy {
            Remedy::Spawn(actor) => self.spawn(actor),
            // It may have been killed meanwhile: whoever leads may be anybody.
            Remedy::Continue(actor) if self.process(actor).is_none() => Ok(()),
            Remedy::Continue(actor) => self.signal(actor, Signal::SIGCONT),
            Remedy::Mend(host, table) => Ok(host.nft(&format!("delete table {table}")).map(drop)?),
            Remedy::SetClock(actor) => self.jump(actor, 0),
        }
    }
}
