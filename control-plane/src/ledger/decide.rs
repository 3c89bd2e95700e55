//! From a wish to guarded changes, or to a refusal.

mod acquire;
mod backend;
mod cluster;
mod deletion;
mod draft;
mod endpoint;
mod join;
mod lease;
mod network;
mod request;
mod reservation;
mod shut_out;
mod subnets;

use loden_proto::model::LeaseName;
use loden_proto::names::NetworkId;

use self::acquire::Acquire;
use super::Ledger;
use super::command::{Command, Context, Decision};
use super::network::{NetworkLedger, StoredLease};
use super::refusal::{Named, Refusal};

impl Ledger {
    /// What a command changes. Writes nothing.
    ///
    /// # Errors
    /// When the command is refused.
    pub fn decide(&self, command: &Command, context: &Context<'_>) -> Result<Decision, Refusal> {
        match command {
            Command::CreateNetwork { spec, request_id } => {
                self.create_network(spec, request_id.as_deref(), context)
            }
            Command::UpdateNetwork { id, change, seen } => self.update_network(id, change, *seen, context),
            Command::DeleteNetwork { id, force } => self.delete_network(id, *force, context),
            Command::AcquireLease { name, instance, claim, endpoint, underlay, identity_epoch } => {
                let asking = Acquire {
                    name,
                    instance: *instance,
                    claim: claim.as_ref(),
                    endpoint,
                    underlay,
                    identity_epoch: *identity_epoch,
                };
                self.acquire_lease(&asking, context)
            }
            Command::RenewLease { name, epoch } => self.refresh_lease(name, *epoch, None, context),
            Command::UpdateEndpoint { name, epoch, endpoint } => {
                self.refresh_lease(name, Some(*epoch), Some(endpoint), context)
            }
            Command::ReleaseLease { name, epoch } => self.release_lease(name, *epoch, context),
            Command::ExpireLease { name, revision } => self.expire_lease(name, *revision, context),
            Command::CreateReservation { name, subnets, request_id } => {
                self.create_reservation(name, subnets, request_id.as_deref(), context)
            }
            Command::DeleteReservation { name } => self.delete_reservation(name, context),
            Command::BeginIncarnation { id, predecessor, adopt_until } => {
                Ok(self.begin_incarnation(*id, *predecessor, *adopt_until))
            }
            Command::CreateToken { id, secret, order } => self.create_token(*id, secret, order, context),
            Command::DeleteToken { id } => self.delete_token(*id),
            Command::Join(joiner) => self.join(joiner, context),
            Command::ShutOut { node, epoch, farewell } => Ok(self.shut_out(node, *epoch, *farewell, context)),
            Command::See { node, epoch } => Ok(self.see(node, *epoch, context)),
            Command::ShareAuthority { sealed, after } => self.share_authority(sealed, *after),
            Command::EndAdoption => Ok(self.end_adoption(context)),
            Command::Tidy => Ok(self.tidy(context)),
        }
    }

    fn known_network(&self, id: &NetworkId) -> Result<&NetworkLedger, Refusal> {
        self.networks.get(id).ok_or_else(|| Refusal::NotFound(Named::Network(id.clone())))
    }

    /// A network that things may be put into.
    fn open_network(&self, id: &NetworkId) -> Result<&NetworkLedger, Refusal> {
        let entry = self.known_network(id)?;
        if entry.deleting.is_some() { Err(Refusal::Deleting(id.clone())) } else { Ok(entry) }
    }

    fn known_lease(&self, name: &LeaseName) -> Result<(&NetworkLedger, &StoredLease), Refusal> {
        let entry = self.networks.get(&name.network);
        let lease = entry.and_then(|entry| Some((entry, entry.leases.get(&name.node)?)));
        lease.ok_or_else(|| Refusal::NotFound(Named::Lease(name.clone())))
    }
}
