//! The swarm's own process: takes orders until nobody gives any.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, anyhow, bail};
use loden_proto::names::NetworkId;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use super::agents::Agents;
use super::callers::Callers;
use super::changes;
use super::driver::Driver;
use super::etcd_watchers::EtcdWatchers;
use super::followers::Followers;
use super::members::Members;
use super::sightings::Sightings;
use super::{Answer, Kind, Order, SwarmArgs, line};

/// Runs a swarm until the one who gives the orders is gone.
///
/// # Errors
/// When it cannot be started. An order that fails is answered.
pub async fn run(args: SwarmArgs) -> anyhow::Result<()> {
    let stream = UnixStream::connect(&args.orders).await.context("could not connect to who gives orders")?;
    let (orders, mut answers) = stream.into_split();
    let mut orders = BufReader::new(orders).lines();
    let mut program = match args.kind {
        Kind::EtcdWatchers => Either::Etcd(EtcdWatchers::new(args)),
        _ => Either::Ours(Program::new(args)?),
    };
    while let Some(order) = orders.next_line().await? {
        let order = serde_json::from_str(&order).context("an order cannot be read")?;
        let done = match &mut program {
            Either::Ours(program) => program.obey(order).await,
            Either::Etcd(watchers) => watchers.obey(order).await,
        };
        let answer = match done {
            Ok(answer) => answer,
            Err(error) => Answer::Failed { why: format!("{error:#}") },
        };
        answers.write_all(line(&answer)?.as_bytes()).await?;
    }
    Ok(())
}

/// Whose clients the members are.
#[expect(clippy::large_enum_variant, reason = "there is one")]
enum Either {
    Ours(Program),
    Etcd(EtcdWatchers),
}

struct Program {
    args: SwarmArgs,
    members: Members,
    sightings: Arc<Sightings>,
    joined: Option<(Crowd, Driver)>,
    callers: Option<Callers>,
    /// Watches that each follower had opened at the mark.
    marked: Vec<u32>,
}

/// Those who watch.
enum Crowd {
    Agents(Agents),
    Followers(Followers),
}

impl Program {
    fn new(args: SwarmArgs) -> anyhow::Result<Self> {
        let members = Members::of(&args.pki, &args.cluster, &args.server)?;
        Ok(Self { args, members, sightings: Arc::default(), joined: None, callers: None, marked: Vec::new() })
    }

    async fn obey(&mut self, order: Order) -> anyhow::Result<Answer> {
        match order {
            Order::Join { network, at_once } => self.join(network.parse()?, at_once).await,
            Order::Change { count, pause } => {
                let members = self.args.count.into();
                let (crowd, driver) = self.joined()?;
                crowd.check()?;
                changes::one_by_one(driver, &crowd.sightings(), members, (count, pause)).await
            }
            Order::Steady { count, period } => {
                let members = self.args.count.into();
                let (crowd, driver) = self.joined()?;
                crowd.check()?;
                changes::steadily(driver, &crowd.sightings(), members, (count, period)).await
            }
            Order::Revoke { count } => {
                let Self { args, members, joined, .. } = self;
                let (crowd, driver) = joined.as_mut().ok_or_else(|| anyhow!("nobody has joined"))?;
                crowd.check()?;
                let sightings = crowd.sightings();
                let latencies = driver.revocations(members, &sightings, args.count.into(), count).await?;
                Ok(Answer::Changed { latencies })
            }
            Order::Mark => {
                match &mut self.joined {
                    Some((Crowd::Agents(agents), _)) => agents.mark(),
                    Some((Crowd::Followers(followers), _)) => self.marked = followers.mark(),
                    None => bail!("nobody has joined"),
                }
                Ok(Answer::Done { seconds: 0.0 })
            }
            Order::Rejoined => {
                let begin = Instant::now();
                match &mut self.joined {
                    Some((Crowd::Agents(agents), _)) => agents.rejoined().await?,
                    Some((Crowd::Followers(followers), _)) => return followers.rejoined(&self.marked).await,
                    None => bail!("nobody has joined"),
                }
                Ok(done(begin))
            }
            Order::Fill { .. } => bail!("the members fill it themselves"),
            Order::Connect => {
                let begin = Instant::now();
                self.callers = Some(Callers::connect(&self.members, self.args.count).await?);
                Ok(done(begin))
            }
            Order::Acquire { networks, leases } => {
                let callers = self.callers.as_ref().context("nobody has connected")?;
                callers.acquire(&networks, leases).await
            }
        }
    }

    async fn join(&mut self, network: NetworkId, at_once: Option<u16>) -> anyhow::Result<Answer> {
        if self.joined.is_some() {
            bail!("everybody has joined before");
        }
        let driver = Driver::join(&self.members, &network).await?;
        let (members, sightings, count) = (&self.members, &self.sightings, self.args.count);
        // Certificates are made before the clock starts: nodes bring theirs.
        let (crowd, begin) = match self.args.kind {
            Kind::Agents => {
                let agents = Agents::prepare(members, count)?;
                let begin = Instant::now();
                let at_once = at_once.unwrap_or(count).into();
                let agents = agents.start(&self.args.home, &network, sightings, at_once).await?;
                (Crowd::Agents(agents), begin)
            }
            Kind::Followers => {
                let followers = Followers::prepare(members, &network, sightings, count)?;
                let begin = Instant::now();
                (Crowd::Followers(followers.start(sightings).await?), begin)
            }
            Kind::Callers | Kind::EtcdWatchers => bail!("they do not watch a control plane"),
        };
        self.joined = Some((crowd, driver));
        Ok(done(begin))
    }

    fn joined(&mut self) -> anyhow::Result<(&Crowd, &mut Driver)> {
        let (crowd, driver) = self.joined.as_mut().ok_or_else(|| anyhow!("nobody has joined"))?;
        Ok((crowd, driver))
    }
}

impl Crowd {
    /// An error when somebody has fallen out.
    fn check(&self) -> anyhow::Result<()> {
        match self {
            // Agents come back by themselves.
            Self::Agents(_) => Ok(()),
            Self::Followers(followers) => followers.check(),
        }
    }

    fn sightings(&self) -> Arc<Sightings> {
        match self {
            Self::Agents(agents) => agents.sightings(),
            Self::Followers(followers) => followers.sightings(),
        }
    }
}

fn done(begin: Instant) -> Answer {
    Answer::Done { seconds: begin.elapsed().as_secs_f64() }
}
