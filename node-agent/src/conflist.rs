//! The CNI configuration of a network: from it a container runtime attaches pods, with the reference plugins.
//!
//! ```text
//!  bridge lodenbr<vni>: veth, gateway, MTU ─▶ host-local: an address of each of our subnets ─▶ portmap
//! ```
//!
//! A runtime counts the node's network as ready when the file is there. So the file appears when the network
//! forwards, and is away while the node has no subnet.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use loden_datapath::DeviceName;
use loden_proto::model::{Network, Subnets, Vni};
use loden_proto::names::NetworkId;
use serde_json::{Value, json};
use tracing::{info, warn};

use crate::published::Published;

/// The newest version that containerd 1.6 takes; newer runtimes take it as well.
const VERSION: &str = "1.0.0";
/// Numbers in the files' names. A runtime takes the first file, so the first network's has to be that.
const RANKS: [u8; 2] = [10, 20];
const EXTENSION: &str = ".conflist";

/// The file's text.
///
/// The agent masquerades by itself where it is asked to: the bridge plugin would also masquerade what goes to
/// pods on other nodes.
#[must_use]
pub fn render(network: &Network, subnets: &Subnets, mtu: u32) -> String {
    let ranges: Vec<_> = subnets.iter().map(|subnet| json!([{ "subnet": subnet }])).collect();
    let routes: Vec<_> = subnets.iter().map(|subnet| json!({ "dst": everywhere(subnet) })).collect();
    let list = json!({
        "cniVersion": VERSION,
        "name": list_name(&network.id),
        "plugins": [
            {
                "type": "bridge",
                "bridge": bridge(network.vni),
                "isGateway": true,
                "ipMasq": false,
                "hairpinMode": true,
                "mtu": mtu,
                "ipam": { "type": "host-local", "ranges": ranges, "routes": routes },
            },
            { "type": "portmap", "capabilities": { "portMappings": true }, "snat": true },
        ],
    });
    format!("{list:#}\n")
}

/// Before the network's VNI, in the name of a bridge.
const BRIDGE: &str = "lodenbr";

/// The bridge that the network's pods are attached to.
pub(crate) fn bridge(vni: Vni) -> String {
    format!("{BRIDGE}{vni}")
}

/// Whether a network's bridge may have this name.
pub(crate) fn is_bridge(name: &str) -> bool {
    let vni = name.strip_prefix(BRIDGE).and_then(|number| number.parse::<u32>().ok());
    vni.and_then(|vni| Vni::try_from(vni).ok()).is_some_and(|vni| bridge(vni) == name)
}

/// The text of a file of [`unserved`], read; `None` when no agent wrote it, for an agent's says so itself.
pub(crate) fn ours(path: &Path, text: &str) -> Option<Value> {
    let network = network_of(path.file_name()?.to_str()?)?;
    let list: Value = serde_json::from_str(text).ok()?;
    (list["name"] == list_name(&network)).then_some(list)
}

/// The bridge that is named in what [`ours`] found.
pub(crate) fn bridge_in(list: &Value) -> Option<DeviceName> {
    let name = list["plugins"].get(0)?["bridge"].as_str().filter(|name| is_bridge(name))?;
    name.parse().ok()
}

fn list_name(network: &NetworkId) -> String {
    format!("loden-{network}")
}

const fn everywhere(subnet: IpNet) -> &'static str {
    match subnet {
        IpNet::V4(_) => "0.0.0.0/0",
        IpNet::V6(_) => "::/0",
    }
}

/// A network's file in the runtime's directory.
#[derive(Debug)]
pub(crate) struct Conflist {
    file: Published,
    /// Its name when the network stood elsewhere in the order of networks; gone when the new one is there.
    former: Option<PathBuf>,
}

impl Conflist {
    pub(crate) fn new(directory: &Path, network: &NetworkId, first: bool) -> Self {
        let [mut own, mut former] = RANKS.map(|rank| path(directory, rank, network));
        if !first {
            std::mem::swap(&mut own, &mut former);
        }
        Self { file: Published::new(own), former: Some(former) }
    }

    /// Takes the file away, under whatever name.
    pub(crate) fn remove(&self) {
        for path in self.former.iter().map(PathBuf::as_path).chain([self.file.path()]) {
            match std::fs::remove_file(path) {
                Ok(()) => info!(path = %path.display(), "CNI configuration removed: the node has no subnet"),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => warn!(path = %path.display(), %error, "CNI configuration not removed"),
            }
        }
    }

    /// Keeps the file as it should be.
    ///
    /// # Errors
    /// Names the file and what the system said.
    pub(crate) fn put(&mut self, network: &Network, subnets: &Subnets, mtu: u32) -> Result<(), String> {
        let path = self.file.path().to_owned();
        match self.file.put(render(network, subnets, mtu)) {
            Ok(true) => info!(path = %path.display(), "CNI configuration written"),
            Ok(false) => {}
            Err(error) => {
                return Err(format!("the CNI configuration {} cannot be written: {error}", path.display()));
            }
        }
        if let Some(former) = self.former.take()
            && std::fs::remove_file(&former).is_ok()
        {
            info!(path = %former.display(), "CNI configuration removed: it has another name now");
        }
        Ok(())
    }
}

fn path(directory: &Path, rank: u8, network: &NetworkId) -> PathBuf {
    directory.join(format!("{rank}-loden-{network}{EXTENSION}"))
}

/// Files in the directory that an agent wrote for networks which are not `served`.
pub(crate) fn unserved(directory: &Path, served: &BTreeSet<NetworkId>) -> Vec<PathBuf> {
    // Without a directory there are none.
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries
        .map(|entry| entry.path())
        .filter(|path| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.and_then(network_of).is_some_and(|network| !served.contains(&network))
        })
        .collect();
    found.sort();
    found
}

fn network_of(name: &str) -> Option<NetworkId> {
    let (rank, rest) = name.split_once("-loden-")?;
    RANKS.iter().find(|known| known.to_string() == rank)?;
    rest.strip_suffix(EXTENSION)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::testing::network;

    fn subnets(nets: &[&str]) -> Subnets {
        Subnets::new(nets.iter().map(|net| net.parse().unwrap())).unwrap()
    }

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn the_plugins_are_told_bridge_subnets_and_mtu() {
        let text = render(&network(), &subnets(&["10.244.1.0/24"]), 1450);
        let list: Value = serde_json::from_str(&text).unwrap();
        let expected = json!({
            "cniVersion": "1.0.0",
            "name": "loden-default",
            "plugins": [
                {
                    "type": "bridge",
                    "bridge": "lodenbr1",
                    "isGateway": true,
                    "ipMasq": false,
                    "hairpinMode": true,
                    "mtu": 1450,
                    "ipam": {
                        "type": "host-local",
                        "ranges": [[{ "subnet": "10.244.1.0/24" }]],
                        "routes": [{ "dst": "0.0.0.0/0" }]
                    }
                },
                { "type": "portmap", "capabilities": { "portMappings": true }, "snat": true }
            ]
        });
        assert_eq!(list, expected);
        assert!(text.ends_with("}\n"), "{text}");
    }

    #[test]
    fn pods_get_an_address_and_a_way_out_in_each_family() {
        let text = render(&network(), &subnets(&["10.244.1.0/24", "fd00:10:0:7::/64"]), 1380);
        let list: Value = serde_json::from_str(&text).unwrap();
        let ipam = &list["plugins"][0]["ipam"];
        let ranges = json!([[{ "subnet": "10.244.1.0/24" }], [{ "subnet": "fd00:10:0:7::/64" }]]);
        assert_eq!(ipam["ranges"], ranges);
        assert_eq!(ipam["routes"], json!([{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }]));
        let v6 = render(&network(), &subnets(&["fd00:10:0:7::/64"]), 1380);
        assert!(!v6.contains("0.0.0.0"), "{v6}");
    }

    #[test]
    fn the_longest_bridge_name_is_one_that_the_kernel_takes() {
        let mut network = network();
        network.vni = Vni::try_from(16_777_215).unwrap();
        let list: Value =
            serde_json::from_str(&render(&network, &subnets(&["10.244.1.0/24"]), 1450)).unwrap();
        let name = list["plugins"][0]["bridge"].as_str().unwrap();
        assert_eq!(bridge_in(&list).unwrap().as_str(), name);
        for other in ["lodenbr", "lodenbr0", "lodenbr01", "lodenbr16777216", "lodenbrx", "br1"] {
            assert!(!is_bridge(other), "{other}");
            assert_eq!(bridge_in(&json!({ "plugins": [{ "bridge": other }] })), None);
        }
        assert_eq!(bridge_in(&json!({ "plugins": [] })), None);
    }

    #[test]
    fn the_first_networks_file_comes_first_also_when_the_order_changes() {
        let root = tempfile::tempdir().unwrap();
        let (directory, subnets) = (root.path().join("net.d"), subnets(&["10.244.1.0/24"]));
        let (id, other) = (network().id, "aaa".parse().unwrap());
        Conflist::new(&directory, &other, true).put(&network(), &subnets, 1450).unwrap();
        Conflist::new(&directory, &id, false).put(&network(), &subnets, 1450).unwrap();
        assert_eq!(names(&directory), ["10-loden-aaa.conflist", "20-loden-default.conflist"]);
        Conflist::new(&directory, &id, true).put(&network(), &subnets, 1450).unwrap();
        Conflist::new(&directory, &other, false).put(&network(), &subnets, 1450).unwrap();
        assert_eq!(names(&directory), ["10-loden-default.conflist", "20-loden-aaa.conflist"]);
        Conflist::new(&directory, &id, false).remove();
        assert_eq!(names(&directory), ["20-loden-aaa.conflist"]);
    }

    #[test]
    fn files_of_networks_that_are_not_served_are_found_and_no_others() {
        let root = tempfile::tempdir().unwrap();
        for name in [
            "10-loden-default.conflist",
            "20-loden-blue.conflist",
            "10-loden-red.conflist.new",
            "87-loden-mine.conflist",
            "10-flannel.conflist",
        ] {
            fs::write(root.path().join(name), "").unwrap();
        }
        let served = BTreeSet::from([network().id]);
        assert_eq!(unserved(root.path(), &served), [root.path().join("20-loden-blue.conflist")]);
        assert_eq!(unserved(&root.path().join("nowhere"), &served), Vec::<PathBuf>::new());
    }
}
