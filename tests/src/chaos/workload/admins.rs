//! Administrators that reserve subnets, and that create and delete networks.

use loden_proto::v1;
use loden_proto::v1::lease_service_client::LeaseServiceClient;
use loden_proto::v1::network_service_client::NetworkServiceClient;
use rand::Rng;
use tonic::transport::Channel;

use super::desk::{Desk, founded, reserved};
use crate::history::{Held, Outcome, Wish};

/// How likely the other is tried of taking and giving, for what may be there or not without our knowing.
const ASTRAY: f64 = 0.2;

/// Whether to take or to give.
fn takes(desk: &mut Desk, known: Option<&Held>) -> bool {
    known.is_none() != desk.random.random_bool(ASTRAY)
}

/// What is known after a call.
fn after(outcome: Outcome, before: Option<Held>) -> Option<Held> {
    match outcome {
        Outcome::Done(known) => known,
        Outcome::Refused => before,
        Outcome::Unknown => None,
    }
}

/// Reserves some subnet of the scarce network for a node that never comes, and gives it free.
pub(super) struct Reserver {
    desk: Desk,
    leases: LeaseServiceClient<Channel>,
}

impl Reserver {
    pub(super) fn new(desk: Desk, channel: Channel) -> Self {
        Self { desk, leases: LeaseServiceClient::new(channel) }
    }

    /// Until it is told to stop.
    pub(super) async fn work(mut self) -> anyhow::Result<()> {
        let mut known = None;
        while self.desk.pause().await {
            let name = self.desk.thing.to_string();
            let outcome = if takes(&mut self.desk, known.as_ref()) {
                // Any but the first.
                let subnet = format!("172.30.0.{}/29", self.desk.random.random_range(1..32_u8) * 8);
                let reservation = v1::Reservation { name, subnets: vec![subnet], ..Default::default() };
                let request = v1::CreateReservationRequest {
                    reservation: Some(reservation),
                    request_id: String::new(),
                };
                let call = self.leases.create_reservation(request);
                let made = |answer: v1::Reservation| Ok(Some(reserved(&answer)?));
                self.desk.call(Wish::Take { instance: 0 }, call, made).await?
            } else {
                let call = self.leases.delete_reservation(v1::DeleteReservationRequest { name });
                self.desk.call(Wish::Give { epoch: 0 }, call, |_| Ok(None)).await?
            };
            known = after(outcome, known);
        }
        Ok(())
    }
}

/// Creates a network, whose VNI is the server's choice, and deletes it.
pub(super) struct Founder {
    desk: Desk,
    number: u8,
    networks: NetworkServiceClient<Channel>,
}

impl Founder {
    pub(super) fn new(desk: Desk, number: u8, channel: Channel) -> Self {
        Self { desk, number, networks: NetworkServiceClient::new(channel) }
    }

    /// Until it is told to stop.
    pub(super) async fn work(mut self) -> anyhow::Result<()> {
        let mut known = None;
        while self.desk.pause().await {
            let name = self.desk.thing.to_string();
            let outcome = if takes(&mut self.desk, known.as_ref()) {
                let pool =
                    v1::Pool { cidr: format!("172.31.{}.0/24", self.number), node_prefix_len: Some(28) };
                let network = v1::Network {
                    name,
                    pools: vec![pool],
                    backend: Some(v1::network::Backend::Vxlan(v1::VxlanBackend::default())),
                    ..Default::default()
                };
                let request = v1::CreateNetworkRequest { network: Some(network), request_id: String::new() };
                let call = self.networks.create_network(request);
                let made = |answer: v1::Network| Ok(Some(founded(&answer)?));
                self.desk.call(Wish::Take { instance: 0 }, call, made).await?
            } else {
                let call = self.networks.delete_network(v1::DeleteNetworkRequest { name, force: false });
                self.desk.call(Wish::Give { epoch: 0 }, call, |_| Ok(None)).await?
            };
            known = after(outcome, known);
        }
        Ok(())
    }
}
