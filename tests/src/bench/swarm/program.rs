//! The swarm's own process: takes orders until nobody gives any.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, anyhow, bail};
use loden_proto::names::NetworkId;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use super::agents::Agents;
use super::callers::Callers;
use super::driver::Driver;
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
    let mut program = Program::new(args)?;
    while let Some(order) = orders.next_line().await? {
        let order = serde_json::from_str(&order).context("an order cannot be read")?;
        let answer = match program.obey(order).await {
            Ok(answer) => answer,
            Err(error) => Answer::Failed { why: format!("{error:#}") },
        };
        answers.write_all(line(&answer)?.as_bytes()).await?;
    }
    Ok(())
}

struct Program {
    args: SwarmArgs,
    members: Members,
    sightings: Arc<Sightings>,
    joined: Option<(Crowd, Driver)>,
    callers: Option<Callers>,
}

/// Those who watch.
enum Crowd {
    Agents(Agents),
    Followers(Followers),
}

impl Program {
    fn new(args: SwarmArgs) -> anyhow::Result<Self> {
        let members = Members::of(&args.pki, &args.cluster, &args.server)?;
        Ok(Self { args, members, sightings: Arc::default(), joined: None, callers: None })
    }

    async fn obey(&mut self, order: Order) -> anyhow::Result<Answer> {
        match order {
            Order::Join { network, at_once } => self.join(network.parse()?, at_once).await,
            Order::Change { count, pause } => {
                let members = self.args.count.into();
                let (crowd, driver) = self.joined()?;
                crowd.check()?;
                let sightings = crowd.sightings();
                let latencies = driver.changes(&sightings, members, (count, pause)).await?;
                Ok(Answer::Changed { latencies })
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
                self.agents()?.mark();
                Ok(Answer::Done { seconds: 0.0 })
            }
            Order::Rejoined => {
                let begin = Instant::now();
                self.agents()?.rejoined().await?;
                Ok(done(begin))
            }
            Order::Acquire { networks, leases } => {
                if self.callers.is_none() {
                    self.callers = Some(Callers::connect(&self.members, self.args.count)?);
                }
                let callers = self.callers.as_ref().context("there are callers")?;
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
                let followers = Followers::prepare(members, count)?;
                let begin = Instant::now();
                (Crowd::Followers(followers.start(&network, sightings).await?), begin)
            }
            Kind::Callers => bail!("callers do not watch"),
        };
        self.joined = Some((crowd, driver));
        Ok(done(begin))
    }

    fn joined(&mut self) -> anyhow::Result<(&Crowd, &mut Driver)> {
        let (crowd, driver) = self.joined.as_mut().ok_or_else(|| anyhow!("nobody has joined"))?;
        Ok((crowd, driver))
    }

    fn agents(&mut self) -> anyhow::Result<&mut Agents> {
        match &mut self.joined {
            Some((Crowd::Agents(agents), _)) => Ok(agents),
            _ => bail!("there are no agents"),
        }
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
