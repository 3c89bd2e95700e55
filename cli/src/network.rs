//! `lodenctl network …`

mod backend;

use std::time::SystemTime;

use clap::{ArgGroup, Args, Subcommand};
use loden_proto::v1;
use serde::Serialize;

use self::backend::{Asked, BackendView, Changes};
use crate::age;
use crate::connection::{Connection, PAGE, all_pages};
use crate::failure::Failure;
use crate::output::{Output, View};
use crate::pool::Pool;

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Creates a network
    Create(Create),
    /// Lists all networks
    List,
    /// Shows one network
    Get {
        /// Its name
        network: String,
    },
    /// Changes pools, MTU, masquerading or what of the backend can be changed
    Update(Update),
    /// Deletes a network
    Delete {
        /// Its name
        network: String,
        /// Also when it has leases or reservations; they are given up
        #[arg(long)]
        force: bool,
    },
}

#[derive(Args, Debug)]
pub(crate) struct Create {
    /// Its name, a DNS label
    network: String,

    /// Address pool, and the prefix length of a node's subnet in it; repeat it
    /// for a second family or more room
    #[arg(long = "pool", value_name = "CIDR[:LEN]", required = true)]
    pools: Vec<Pool>,

    #[command(flatten)]
    backend: Asked,

    /// VXLAN network identifier; without it one is allocated
    #[arg(long)]
    vni: Option<u32>,

    /// MTU of the pods' interfaces; without it each node works it out
    #[arg(long, value_name = "BYTES", value_parser = mtu)]
    mtu: Option<u32>,

    /// How long a lease lives without renewal ("24h")
    #[arg(long, value_name = "DURATION")]
    lease_ttl: Option<humantime::Duration>,

    #[command(flatten)]
    masquerade: Masquerade,
}

#[derive(Args, Debug)]
#[group(skip)]
struct Masquerade {
    /// Packets of pods leave for the world outside with their node's address
    #[arg(long)]
    masquerade: bool,

    /// Destination for which the pods' addresses stay; may be repeated
    #[arg(long = "masquerade-except", value_name = "CIDR", requires = "masquerade")]
    except: Vec<String>,

    /// Source ports are chosen at random
    #[arg(long = "masquerade-random-fully", requires = "masquerade")]
    random_fully: bool,
}

#[derive(Args, Debug)]
#[group(skip)]
#[command(group(ArgGroup::new("change").required(true).multiple(true).arg("masquerade")))]
pub(crate) struct Update {
    /// Its name
    network: String,

    /// Adds a pool; may be repeated
    #[arg(long = "add-pool", value_name = "CIDR[:LEN]", group = "change")]
    add: Vec<Pool>,

    /// Removes a pool that nobody uses; may be repeated
    #[arg(long = "remove-pool", value_name = "CIDR", group = "change")]
    remove: Vec<Pool>,

    /// New MTU of the pods' interfaces
    #[arg(long, value_name = "BYTES", value_parser = mtu, group = "change", conflicts_with = "no_mtu")]
    mtu: Option<u32>,

    /// Lets each node work out the MTU
    #[arg(long, group = "change")]
    no_mtu: bool,

    #[command(flatten)]
    masquerade: Masquerade,

    /// Packets of pods leave with the pods' addresses
    #[arg(long, group = "change", conflicts_with = "masquerade")]
    no_masquerade: bool,

    #[command(flatten)]
    backend: Changes,
}

impl Verb {
    pub(crate) async fn run(self, connection: &Connection, output: Output) -> Result<(), Failure> {
        let mut client = connection.networks();
        match self {
            Self::Create(create) => {
                let network = Some(create.network()?);
                let request = v1::CreateNetworkRequest { network, ..Default::default() };
                let network = client.create_network(request).await?.into_inner();
                output.one(&NetworkView::from(network))?;
            }
            Self::List => output.list(&list(connection).await?)?,
            Self::Get { network } => {
                let request = v1::GetNetworkRequest { name: name(&network) };
                output.one(&NetworkView::from(client.get_network(request).await?.into_inner()))?;
            }
            Self::Update(update) => {
                let request = v1::GetNetworkRequest { name: name(&update.network) };
                let current = client.get_network(request).await?.into_inner();
                let request = update.request(current)?;
                output.one(&NetworkView::from(client.update_network(request).await?.into_inner()))?;
            }
            Self::Delete { network, force } => {
                client.delete_network(v1::DeleteNetworkRequest { name: name(&network), force }).await?;
                output.done("deleted", &name(&network))?;
            }
        }
        Ok(())
    }
}

/// The resource name. What was typed is not looked at: the server's rules hold.
pub(crate) fn name(network: &str) -> String {
    format!("networks/{network}")
}

/// The name alone, of a resource name.
pub(crate) fn short(name: &str) -> String {
    name.rsplit('/').next().unwrap_or(name).to_owned()
}

async fn list(connection: &Connection) -> Result<Vec<NetworkView>, Failure> {
    let mut client = connection.networks();
    let networks = all_pages(async |page_token| {
        let request = v1::ListNetworksRequest { page_size: PAGE, page_token };
        let page = client.list_networks(request).await?.into_inner();
        Ok((page.networks, page.next_page_token))
    });
    Ok(networks.await?.into_iter().map(NetworkView::from).collect())
}

impl Masquerade {
    fn policy(self) -> Option<v1::Masquerade> {
        let Self { masquerade, except, random_fully } = self;
        masquerade.then_some(v1::Masquerade { except, random_fully })
    }
}

impl Create {
    /// The network that is asked for.
    fn network(self) -> Result<v1::Network, Failure> {
        Ok(v1::Network {
            name: name(&self.network),
            pools: self.pools.into_iter().map(Into::into).collect(),
            vni: self.vni,
            mtu: self.mtu,
            backend: Some(self.backend.backend()?),
            lease_ttl: self.lease_ttl.map(|ttl| loden_proto::convert::duration(ttl.into())),
            masquerade: self.masquerade.policy(),
            ..Default::default()
        })
    }
}

impl Update {
    /// The request that changes `current` as asked.
    fn request(self, current: v1::Network) -> Result<v1::UpdateNetworkRequest, Failure> {
        let mut paths = Vec::new();
        let mut pools = current.pools;
        for unwanted in &self.remove {
            let position = pools.iter().position(|pool| pool.cidr == unwanted.cidr).ok_or_else(|| {
                Failure::Usage(format!("--remove-pool {unwanted}: network {} has no such pool", self.network))
            })?;
            pools.remove(position);
        }
        if !(self.add.is_empty() && self.remove.is_empty()) {
            pools.extend(self.add.into_iter().map(v1::Pool::from));
            paths.push("pools".to_owned());
        }
        if self.mtu.is_some() || self.no_mtu {
            paths.push("mtu".to_owned());
        }
        let masquerade = self.masquerade.policy();
        if masquerade.is_some() || self.no_masquerade {
            paths.push("masquerade".to_owned());
        }
        let mut backend = current.backend;
        paths.extend(self.backend.apply(&self.network, &mut backend)?);
        let (name, revision, mtu) = (current.name, current.revision, self.mtu);
        let network = v1::Network { name, pools, mtu, masquerade, backend, revision, ..Default::default() };
        let update_mask = Some(prost_types::FieldMask { paths });
        Ok(v1::UpdateNetworkRequest { network: Some(network), update_mask })
    }
}

/// A number of bytes.
fn mtu(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| match text {
        "auto" => "each node works it out without --mtu; for a network that has one, use --no-mtu".to_owned(),
        _ => "must be a number of bytes".to_owned(),
    })
}

/// A network as shown.
#[derive(Debug, Serialize)]
struct NetworkView {
    name: String,
    vni: Option<u32>,
    pools: Vec<Pool>,
    mtu: Option<u32>,
    backend: BackendView,
    lease_ttl_seconds: Option<i64>,
    masquerade: Option<MasqueradeView>,
    create_time: Option<String>,
    revision: u64,
    #[serde(skip)]
    created: Option<prost_types::Timestamp>,
}

#[derive(Debug, Serialize)]
struct MasqueradeView {
    except: Vec<String>,
    random_fully: bool,
}

impl From<v1::Network> for NetworkView {
    fn from(wire: v1::Network) -> Self {
        Self {
            name: short(&wire.name),
            vni: wire.vni,
            pools: wire.pools.into_iter().map(Into::into).collect(),
            mtu: wire.mtu,
            backend: BackendView::from(wire.backend),
            lease_ttl_seconds: wire.lease_ttl.map(|ttl| ttl.seconds),
            masquerade: wire
                .masquerade
                .map(|of| MasqueradeView { except: of.except, random_fully: of.random_fully }),
            create_time: age::rfc3339(wire.create_time.as_ref()),
            revision: wire.revision,
            created: wire.create_time,
        }
    }
}

impl MasqueradeView {
    fn words(&self) -> String {
        let mut words = "yes".to_owned();
        if self.random_fully {
            words.push_str(" random-fully");
        }
        if !self.except.is_empty() {
            words.push_str(&format!(" except {}", self.except.join(" ")));
        }
        words
    }
}

impl View for NetworkView {
    const COLUMNS: &'static [&'static str] =
        &["NAME", "VNI", "POOLS", "BACKEND", "MTU", "MASQUERADE", "CREATED"];

    fn rows(&self, now: SystemTime) -> Vec<Vec<String>> {
        let number =
            |value: Option<u32>, unset: &str| value.map_or_else(|| unset.to_owned(), |v| v.to_string());
        let pools: Vec<_> = self.pools.iter().map(ToString::to_string).collect();
        vec![vec![
            self.name.clone(),
            number(self.vni, "-"),
            pools.join(" "),
            self.backend.words(),
            number(self.mtu, "auto"),
            self.masquerade.as_ref().map_or_else(|| "no".to_owned(), MasqueradeView::words),
            age::relative(self.created.as_ref(), now),
        ]]
    }
}

#[cfg(test)]
mod tests;
