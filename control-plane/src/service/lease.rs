//! LeaseService.

use std::sync::Arc;
use std::time::SystemTime;

use loden_proto::InvalidValue;
use loden_proto::convert::{endpoint_or_missing, mask_keys, parse_prefixes, parse_subnets, timestamp};
use loden_proto::model::{BootId, Epoch, InstanceId, LeaseName};
use loden_proto::names::{self, NetworkId};
use loden_proto::reason::{self, Reason};
use loden_proto::v1::lease_service_server::LeaseService;
use loden_proto::v1::{
    self, AcquireLeaseRequest, AcquireLeaseResponse, CreateReservationRequest, DeleteReservationRequest,
    GetLeaseRequest, ListLeasesRequest, ListLeasesResponse, ListReservationsRequest,
    ListReservationsResponse, ReleaseLeaseRequest, RenewLeaseRequest, UpdateEndpointRequest,
};
use loden_transport::Role;
use tonic::{Code, Request, Response, Status};

use super::network::{not_found, parse_request_id, wrong_answer};
use super::page::Page;
use super::refusal::{elsewhere, failed};
use super::{Shared, caller, watch};
use crate::clerk::{Answer, SubmitError};
use crate::ledger::{Command, Lease, LeaseState, Ledger, Refusal, Reservation};
use crate::registry::Link;

pub(super) struct Leases(pub(super) Arc<Shared>);

#[tonic::async_trait]
impl LeaseService for Leases {
    async fn acquire_lease(
        &self,
        request: Request<AcquireLeaseRequest>,
    ) -> Result<Response<AcquireLeaseResponse>, Status> {
        let caller = caller(&request)?;
        let node = caller.node()?.clone();
        let link = request.extensions().get::<Arc<Link>>().cloned();
        let request = request.into_inner();
        let network = names::parse_network(&request.network).map_err(|invalid| invalid.at("network"))?;
        let name = LeaseName { network, node };
        let answer = self.acquire(&name, caller.epoch, link.as_deref(), request).await;
        match (&answer, link) {
            (Ok(_), _) => self.0.nodes.lease_granted(&name),
            // That is said of the copy, not of the node.
            (Err(status), _) if Reason::AnotherInstance.is_of(status) => {}
            (Err(status), Some(link)) => {
                self.0.nodes.lease_refused(&name, status, link.remote, SystemTime::now());
            }
            (Err(_), None) => {}
        }
        answer.map(Response::new)
    }

    async fn renew_lease(&self, request: Request<RenewLeaseRequest>) -> Result<Response<v1::Lease>, Status> {
        let caller = caller(&request)?;
        let RenewLeaseRequest { name, epoch } = request.into_inner();
        let name = parse_name(&name)?;
        caller.may_act_for(&name.node)?;
        let epoch = Some(required_epoch(epoch)?);
        self.submit(Command::RenewLease { name, epoch }).await
    }

    async fn update_endpoint(
        &self,
        request: Request<UpdateEndpointRequest>,
    ) -> Result<Response<v1::Lease>, Status> {
        let caller = caller(&request)?;
        let UpdateEndpointRequest { name, epoch, endpoint } = request.into_inner();
        let name = parse_name(&name)?;
        caller.may_act_for(&name.node)?;
        let (epoch, endpoint) = (required_epoch(epoch)?, endpoint_or_missing(endpoint)?);
        self.submit(Command::UpdateEndpoint { name, epoch, endpoint }).await
    }

    async fn release_lease(&self, request: Request<ReleaseLeaseRequest>) -> Result<Response<()>, Status> {
        let caller = caller(&request)?;
        let ReleaseLeaseRequest { name, epoch } = request.into_inner();
        let name = parse_name(&name)?;
        caller.may_act_for(&name.node)?;
        let epoch = match (&caller.id.role, epoch) {
            (Role::Admin(_), 0) => None,
            _ => Some(required_epoch(epoch)?),
        };
        // What nodes hold is only just being collected: that is no time for one of them to let go.
        if matches!(caller.id.role, Role::Node(_)) && self.0.clerk.read(Ledger::is_adopting) {
            let message =
                "the leases held before the store was lost are being collected; a node keeps its own";
            return Err(reason::status(Code::Unavailable, Reason::Adopting, message));
        }
        let to = name.to_string();
        let released = self.0.clerk.submit(Command::ReleaseLease { name, epoch }).await.map_err(failed);
        self.0.audit.outcome(&caller, &to, released)?;
        Ok(Response::new(()))
    }

    async fn get_lease(&self, request: Request<GetLeaseRequest>) -> Result<Response<v1::Lease>, Status> {
        let caller = caller(&request)?;
        let name = parse_name(&request.get_ref().name)?;
        caller.may_act_for(&name.node)?;
        let lease = self.0.clerk.read(|ledger| ledger.lease(&name));
        let lease = lease.ok_or_else(|| not_found(&name.to_string()))?;
        Ok(Response::new(match caller.id.role {
            Role::Node(_) => lease_to_wire(&lease),
            Role::Admin(_) | Role::Reader(_) | Role::ControlPlane(_) => masked_to_wire(&lease),
        }))
    }

    async fn list_leases(
        &self,
        request: Request<ListLeasesRequest>,
    ) -> Result<Response<ListLeasesResponse>, Status> {
        let ListLeasesRequest { parent, page_size, page_token } = request.into_inner();
        let of = self.existing(&parent)?;
        let page = Page::new(&parent, page_size, &page_token)?;
        let after = page.after(parse_position)?;
        Ok(Response::new(self.0.clerk.read(|ledger| {
            let leases = ledger.leases(of.as_ref(), after.as_ref());
            let (leases, next_page_token) = page.take(leases, |lease| position(&lease.name), masked_to_wire);
            ListLeasesResponse { leases, next_page_token, revision: ledger.revision().0 }
        })))
    }

    async fn create_reservation(
        &self,
        request: Request<CreateReservationRequest>,
    ) -> Result<Response<v1::Reservation>, Status> {
        let caller = caller(&request)?;
        let CreateReservationRequest { reservation, request_id } = request.into_inner();
        let wire = reservation.ok_or_else(|| InvalidValue::missing("reservation"))?;
        let at = |invalid: InvalidValue| invalid.at("reservation");
        let name = names::parse_reservation(&wire.name).map_err(|invalid| at(invalid.at("name")))?;
        let subnets = parse_subnets(&wire.subnets, "subnets").map_err(at)?;
        let name = LeaseName { network: name.0, node: name.1 };
        let request_id = parse_request_id(request_id)?;
        let command = Command::CreateReservation { name, subnets, request_id };
        let made = self.0.clerk.submit(command).await.map_err(failed);
        match self.0.audit.outcome(&caller, &wire.name, made)? {
            Answer::Reservation(reservation) => Ok(Response::new(reservation_to_wire(&reservation))),
            other => Err(wrong_answer(&other)),
        }
    }

    async fn list_reservations(
        &self,
        request: Request<ListReservationsRequest>,
    ) -> Result<Response<ListReservationsResponse>, Status> {
        let ListReservationsRequest { parent, page_size, page_token } = request.into_inner();
        let of = self.existing(&parent)?;
        let page = Page::new(&parent, page_size, &page_token)?;
        let after = page.after(parse_position)?;
        Ok(Response::new(self.0.clerk.read(|ledger| {
            let reservations = ledger.reservations(of.as_ref(), after.as_ref());
            let (reservations, next_page_token) =
                page.take(reservations, |one| position(&one.name), reservation_to_wire);
            ListReservationsResponse { reservations, next_page_token, revision: ledger.revision().0 }
        })))
    }

    async fn delete_reservation(
        &self,
        request: Request<DeleteReservationRequest>,
    ) -> Result<Response<()>, Status> {
        let caller = caller(&request)?;
        let name = &request.get_ref().name;
        let (network, node) = names::parse_reservation(name).map_err(|invalid| invalid.at("name"))?;
        let command = Command::DeleteReservation { name: LeaseName { network, node } };
        let deleted = self.0.clerk.submit(command).await.map_err(failed);
        self.0.audit.outcome(&caller, name, deleted)?;
        Ok(Response::new(()))
    }
}

impl Leases {
    async fn acquire(
        &self,
        name: &LeaseName,
        identity_epoch: u32,
        link: Option<&Link>,
        request: AcquireLeaseRequest,
    ) -> Result<AcquireLeaseResponse, Status> {
        let AcquireLeaseRequest { instance_id, claim, endpoint, boot_id, underlay_prefixes, .. } = request;
        let instance = parse_instance(&instance_id)?;
        let boot = parse_boot(&boot_id)?;
        let claim = (!claim.is_empty()).then(|| parse_subnets(&claim, "claim")).transpose()?;
        let endpoint = endpoint_or_missing(endpoint)?;
        let underlay = parse_prefixes(&underlay_prefixes, "underlay_prefixes")?;
        let copied = || {
            if let Some(link) = link {
                self.0.copied(&name.node, instance, link);
            }
        };
        self.0.is_no_copy(name, instance, boot, &endpoint).await.inspect_err(|status| {
            if Reason::AnotherInstance.is_of(status) {
                copied();
            }
        })?;
        self.0.streams.acquire(name, instance, boot).map_err(|other| {
            copied();
            elsewhere(name, other, self.0.nodes.address(&name.node))
        })?;
        let claims = claim.is_some();
        let name_of = name.clone();
        let command =
            Command::AcquireLease { name: name_of, instance, claim, endpoint, underlay, identity_epoch };
        let mut answer = self.0.clerk.submit(command.clone()).await;
        if claims && matches!(answer, Err(SubmitError::Refused(Refusal::Knocked(_)))) {
            self.0.adoption.heed_claim(name).await.map_err(|error| watch::refused(error.into()))?;
            answer = self.0.clerk.submit(command).await;
        }
        let answer = answer.map_err(|error| {
            if matches!(error, SubmitError::Refused(Refusal::AnotherInstance { .. })) {
                copied();
            }
            failed(error)
        });
        match answer? {
            Answer::Lease(lease, network) => Ok(AcquireLeaseResponse {
                lease: Some(lease_to_wire(&lease)),
                network: Some((&network).into()),
            }),
            other => Err(wrong_answer(&other)),
        }
    }

    async fn submit(&self, command: Command) -> Result<Response<v1::Lease>, Status> {
        match self.0.clerk.submit(command).await.map_err(failed)? {
            Answer::Lease(lease, _) => Ok(Response::new(lease_to_wire(&lease))),
            other => Err(wrong_answer(&other)),
        }
    }

    /// The network of a list's parent, which must exist; none for all.
    fn existing(&self, parent: &str) -> Result<Option<NetworkId>, Status> {
        let network = names::parse_network_or_all(parent).map_err(|invalid| invalid.at("parent"))?;
        let missing = network.as_ref().filter(|id| self.0.clerk.read(|ledger| ledger.network(id).is_none()));
        match missing {
            Some(id) => Err(not_found(&names::network(id))),
            None => Ok(network),
        }
    }
}

fn parse_name(name: &str) -> Result<LeaseName, InvalidValue> {
    let (network, node) = names::parse_lease(name).map_err(|invalid| invalid.at("name"))?;
    Ok(LeaseName { network, node })
}

/// An agent's instance.
pub(super) fn parse_instance(text: &str) -> Result<InstanceId, InvalidValue> {
    if text.is_empty() {
        return Err(InvalidValue::missing("instance_id"));
    }
    text.parse().map_err(|invalid: InvalidValue| invalid.at("instance_id"))
}

/// The host that is told; empty is none.
pub(super) fn parse_boot(text: &str) -> Result<Option<BootId>, InvalidValue> {
    let boot = (!text.is_empty()).then(|| text.parse()).transpose();
    boot.map_err(|invalid: InvalidValue| invalid.at("boot_id"))
}

fn required_epoch(epoch: u64) -> Result<Epoch, InvalidValue> {
    if epoch == 0 { Err(InvalidValue::missing("epoch")) } else { Ok(Epoch(epoch)) }
}

/// Place of a lease or reservation in a list over networks.
fn position(name: &LeaseName) -> String {
    format!("{}/{}", name.network, name.node)
}

fn parse_position(text: &str) -> Result<LeaseName, InvalidValue> {
    let (network, node) =
        text.split_once('/').ok_or_else(|| InvalidValue::new(text, "is no place in this list"))?;
    Ok(LeaseName { network: network.parse()?, node: node.parse()? })
}

/// A lease for those who are not its node: without the keys of its receivers.
fn masked_to_wire(lease: &Lease) -> v1::Lease {
    let mut wire = lease_to_wire(lease);
    if let Some(endpoint) = &mut wire.endpoint {
        mask_keys(endpoint);
    }
    wire
}

fn lease_to_wire(lease: &Lease) -> v1::Lease {
    let state = match lease.state {
        LeaseState::Active => v1::LeaseState::Active,
        LeaseState::Held { .. } => v1::LeaseState::Held,
    };
    v1::Lease {
        name: lease.name.to_string(),
        subnets: lease.subnets.iter().map(|net| net.to_string()).collect(),
        endpoint: Some((&lease.endpoint).into()),
        epoch: lease.epoch.0,
        state: state.into(),
        create_time: Some(timestamp(lease.created)),
        expire_time: lease.expires.map(timestamp),
        instance_id: lease.instance.to_string(),
        reserved: lease.reserved,
    }
}

fn reservation_to_wire(reservation: &Reservation) -> v1::Reservation {
    v1::Reservation {
        name: names::reservation(&reservation.name.network, &reservation.name.node),
        subnets: reservation.subnets.iter().map(|net| net.to_string()).collect(),
        create_time: Some(timestamp(reservation.created)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_in_the_list_round_trips() {
        let name = LeaseName { network: "blue".parse().unwrap(), node: "a.b".parse().unwrap() };
        assert_eq!(parse_position(&position(&name)), Ok(name));
        assert!(parse_position("blue").is_err());
    }

    #[test]
    fn what_is_required_is_named() {
        assert_eq!(parse_instance("").unwrap_err().to_string(), "instance_id: is required");
        assert_eq!(parse_instance("7").unwrap_err().field, "instance_id");
        assert_eq!(parse_boot("").unwrap(), None);
        assert_eq!(parse_boot("7").unwrap_err().field, "boot_id");
        assert_eq!(required_epoch(0).unwrap_err().field, "epoch");
        assert_eq!(parse_name("networks/blue").unwrap_err().field, "name");
    }
}
