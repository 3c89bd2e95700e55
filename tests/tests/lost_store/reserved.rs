//! A copy of the state has a reservation whose subnet somebody else has had since: its node comes before the agent
//! that would show that it is a copy.

use anyhow::ensure;
use loden_proto::reason::Reason;
use loden_tests::client;
use nix::sys::signal::Signal;

use crate::copy;
use crate::fleet::Fleet;
use crate::{NETWORK, STAYING};

const ADOPT: &str = "20s";
/// Of the one that joins last.
const SUBNET: &str = "10.244.0.40/29";
const STRANGER: u16 = 200;

#[tokio::test(flavor = "multi_thread")]
async fn a_reservation_of_an_old_copy_gives_nobody_the_subnet_of_an_agent_that_is_still_away()
-> anyhow::Result<()> {
    let mut fleet = Fleet::start("reserved", &[], ADOPT).await?;
    fleet.deployment.lodenctl(&["reservation", "create", NETWORK, "stranger", SUBNET]).await?;
    let copy = copy::keep(&mut fleet.deployment).await?;

    fleet.deployment.lodenctl(&["reservation", "delete", NETWORK, "stranger"]).await?;
    let last = STAYING[2];
    fleet.deployment.lodenctl(&["reservation", "create", NETWORK, last, SUBNET]).await?;
    for (name, number) in STAYING.into_iter().zip(11..) {
        fleet.join(name, number).await?;
    }
    fleet.deployment.lodenctl(&["reservation", "delete", NETWORK, last]).await?;
    let subnets = fleet.subnets();
    ensure!(subnets[last].to_string() == SUBNET, "{subnets:?}");
    fleet.everybody_is_back(&STAYING, &subnets).await?;
    let calm = fleet.calm(&STAYING).await?;

    fleet.signal_agents(Signal::SIGSTOP)?;
    copy::put_back(&mut fleet.deployment, &copy).await?;
    fleet.deployment.control.start().await?;
    let stranger = fleet.stranger("stranger").await?;
    let asked = client::acquire(&stranger, NETWORK, STRANGER.into(), client::endpoint(STRANGER)).await;
    ensure!(matches!(&asked, Err(status) if Reason::Settling.is_of(status)), "{asked:?}");
    fleet.signal_agents(Signal::SIGCONT)?;
    fleet.adoption_ends(&calm).await?;

    fleet.everybody_is_back(&STAYING, &subnets).await?;
    // The copy's reservation has lost against the agent that holds the subnet.
    let given = client::acquire(&stranger, NETWORK, STRANGER.into(), client::endpoint(STRANGER)).await?;
    ensure!(given.subnets.iter().all(|subnet| subnet != SUBNET), "{given:?}");
    calm.end().await
}
