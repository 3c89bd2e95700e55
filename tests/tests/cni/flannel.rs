//! flannel's CNI plugin with the agent's `subnet.env`.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::{fs, io};

use anyhow::{Context, ensure};
use loden_tests::{cni::PublishedPort, deployment::Node, hosts::ip};
use serde_json::{Value, json};

use crate::pods::{links, reaches, serve, who};
use crate::{Plugins, two_nodes};

const WEB: PublishedPort = PublishedPort { host: 8081, container: 80 };

/// Who reads `subnet.env`.
#[derive(Clone, Copy, Debug)]
enum Reader {
    /// flannel's own plugin.
    Plugin,
    /// This file, where Go cannot build the plugin: what the plugin makes of the file for the bridge plugin.
    Delegate,
}

impl Reader {
    /// What `make tools` has built, else the other.
    fn installed() -> anyhow::Result<(Self, Plugins)> {
        let has_it = |plugins: &Plugins| plugins.folders[0].join("flannel").is_file();
        match Plugins::built().filter(has_it) {
            Some(plugins) => Ok((Self::Plugin, plugins)),
            None => Ok((Self::Delegate, Plugins::distribution()?)),
        }
    }

    /// The configuration that our page on flannel shows, in the newest version that this plugin takes.
    fn write_list(self, node: &Node) -> anyhow::Result<PathBuf> {
        let delegate = json!({ "hairpinMode": true, "isDefaultGateway": true, "ipMasq": false });
        let first = match self {
            Self::Plugin => {
                json!({ "type": "flannel", "subnetFile": node.subnet_file(), "delegate": delegate })
            }
            Self::Delegate => bridge(&fs::read_to_string(node.subnet_file())?, delegate)?,
        };
        let portmap = json!({ "type": "portmap", "capabilities": { "portMappings": true } });
        let list = json!({ "cniVersion": "0.3.1", "name": "cbr0", "plugins": [first, portmap] });
        let folder = node.home.join("flannel.d");
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("10-flannel.conflist"), list.to_string())?;
        Ok(folder)
    }
}

/// What flannel's plugin delegates.
fn bridge(subnet_env: &str, mut delegate: Value) -> anyhow::Result<Value> {
    let key = |name: &str| {
        let mut lines = subnet_env.lines().filter_map(|line| line.split_once('='));
        lines
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value)
            .with_context(|| format!("{name} is missing"))
    };
    let subnet: ipnet::IpNet = key("FLANNEL_SUBNET")?.parse()?;
    let route = json!({ "dst": key("FLANNEL_NETWORK")? });
    let range = json!([{ "subnet": subnet.trunc() }]);
    key("FLANNEL_IPMASQ")?;
    delegate["type"] = json!("bridge");
    delegate["mtu"] = json!(key("FLANNEL_MTU")?.parse::<u32>()?);
    delegate["ipam"] = json!({ "type": "host-local", "ranges": [range], "routes": [route] });
    Ok(delegate)
}

#[tokio::test(flavor = "multi_thread")]
async fn flannels_plugin_attaches_pods_by_our_subnet_env() -> anyhow::Result<()> {
    let (reader, plugins) = Reader::installed()?;
    // Past the test harness, which shows what a test prints only when it fails.
    match reader {
        Reader::Plugin => writeln!(io::stderr(), "CNI test: flannel's plugin in {:?}", plugins.folders)?,
        Reader::Delegate => writeln!(
            io::stderr(),
            "CNI test: flannel's plugin is not built (it needs Go), the test reads subnet.env in its place"
        )?,
    }
    let (deployment, a, b) = two_nodes("cni-flannel", &["10.244.0.0/16"]).await?;
    let on_a = plugins.runtime(&a, &reader.write_list(&a)?)?;
    let on_b = plugins.runtime(&b, &reader.write_list(&b)?)?;
    let pod_a = deployment.lab.host("pod-a").build().await?;
    let pod_b = deployment.lab.host("pod-b").build().await?;
    let client = on_a.add(&pod_a, &[])?;
    let server = on_b.add(&pod_b, &[WEB])?;
    ensure!(pod_b.link_mtu("eth0").await? == b.subnet_env()?.mtu, "{}", pod_b.link_mtu("eth0").await?);
    let addresses = server.addresses()?;
    let subnet = b.subnet_env()?.subnet.trunc();
    ensure!(addresses.len() == 1 && subnet.contains(&addresses[0]), "{addresses:?} in {subnet}");

    serve(&pod_b, WEB.container)?;
    reaches(&pod_a, &addresses).await?;
    reaches(&pod_b, &client.addresses()?).await?;
    ensure!(who(&pod_a, SocketAddr::new(addresses[0], WEB.container))? == "pod-b");
    ensure!(who(&a.host, SocketAddr::new(ip("192.0.2.12"), WEB.host))? == "pod-b");

    on_a.del(&client)?;
    on_b.del(&server)?;
    for (node, runtime) in [(&a, &on_a), (&b, &on_b)] {
        let left = links(&node.host).await?;
        let names: Vec<_> = left.iter().map(String::as_str).collect();
        ensure!(names == ["cni0", "eth0", "lo", "loden1a"], "on {}: {left:?}", node.name);
        ensure!(runtime.taken()?.is_empty(), "on {}: {:?}", node.name, runtime.taken()?);
    }
    Ok(())
}
