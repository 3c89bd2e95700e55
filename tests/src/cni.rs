//! A container runtime as far as CNI plugins see one (CNI specification 1.0, sections 2 to 4).
//!
//! ```text
//!  first *.conflist ─▶ per plugin: its part + name, version, ports, result so far ──stdin──▶ plugin ──▶ result
//! ```
//! Each runtime has a `/var/lib` of its own: there the plugins keep which addresses are taken.

use std::{
    fs,
    io::{self, Write},
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use anyhow::{Context, bail, ensure};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use serde_json::{Value, json};

use crate::hosts::{Host, Namespace};

/// The interface in a container.
const INTERFACE: &str = "eth0";
/// Where the plugins keep their files.
const VAR_LIB: &str = "/var/lib";

/// A runtime on a host.
#[derive(Debug)]
pub struct Runtime {
    host: Host,
    config: PathBuf,
    plugins: Vec<PathBuf>,
    var_lib: PathBuf,
}

/// A port of the host that leads to one of a container.
#[derive(Clone, Copy, Debug)]
pub struct PublishedPort {
    /// The host's TCP port.
    pub host: u16,
    /// The container's.
    pub container: u16,
}

/// A container that was added, and what the last plugin answered.
#[derive(Debug)]
pub struct Attachment {
    container: Namespace,
    ports: Vec<PublishedPort>,
    result: Value,
}

impl Attachment {
    /// The addresses that the container got, in the plugins' order.
    ///
    /// # Errors
    /// When the result has none that can be read.
    pub fn addresses(&self) -> anyhow::Result<Vec<IpAddr>> {
        let ips = self.result["ips"].as_array().context("the result has no addresses")?;
        let address = |ip: &Value| -> anyhow::Result<IpAddr> {
            let text = ip["address"].as_str().context("an address is no text")?;
            Ok(text.parse::<ipnet::IpNet>()?.addr())
        };
        ips.iter().map(address).collect()
    }
}

impl Runtime {
    /// A runtime that reads the configurations in `config`, looks for plugins in `plugins`, and keeps its files
    /// in `files`.
    ///
    /// # Errors
    /// When `files` cannot be made.
    pub fn new(host: &Host, config: &Path, plugins: &[PathBuf], files: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(files)?;
        Ok(Self {
            host: host.clone(),
            config: config.to_owned(),
            plugins: plugins.to_vec(),
            var_lib: files.to_owned(),
        })
    }

    /// Attaches a container, a namespace with nothing but `lo`.
    ///
    /// # Errors
    /// When there is no configuration, or a plugin refuses.
    pub fn add(&self, container: &Namespace, ports: &[PublishedPort]) -> anyhow::Result<Attachment> {
        let list = self.list()?;
        let mut result = None;
        for plugin in plugins(&list)? {
            let config = request(&list, plugin, ports, result.as_ref());
            result = Some(self.call("ADD", container, &config)?.context("ADD answered nothing")?);
        }
        let result = result.context("the configuration has no plugins")?;
        Ok(Attachment { container: container.clone(), ports: ports.to_vec(), result })
    }

    /// Asks the plugins, but for those in `unasked`, whether the container is still attached as it was.
    ///
    /// # Errors
    /// When one says no.
    pub fn check(&self, attachment: &Attachment, unasked: &[&str]) -> anyhow::Result<()> {
        let list = self.list()?;
        let asked = |plugin: &&Value| !unasked.iter().any(|name| plugin["type"] == *name);
        for plugin in plugins(&list)?.iter().filter(asked) {
            let config = request(&list, plugin, &attachment.ports, Some(&attachment.result));
            self.call("CHECK", &attachment.container, &config)?;
        }
        Ok(())
    }

    /// Detaches a container.
    ///
    /// # Errors
    /// When there is no configuration, or a plugin refuses.
    pub fn del(&self, attachment: &Attachment) -> anyhow::Result<()> {
        let list = self.list()?;
        for plugin in plugins(&list)?.iter().rev() {
            let config = request(&list, plugin, &attachment.ports, Some(&attachment.result));
            self.call("DEL", &attachment.container, &config)?;
        }
        Ok(())
    }

    /// The addresses that are taken.
    ///
    /// # Errors
    /// When the plugins' files cannot be read.
    pub fn taken(&self) -> anyhow::Result<Vec<IpAddr>> {
        let mut taken = Vec::new();
        for network in entries(&self.var_lib.join("cni/networks"))? {
            // Beside the addresses' files there are a lock and what was given out last.
            let address = |path: PathBuf| path.file_name()?.to_str()?.parse::<IpAddr>().ok();
            taken.extend(entries(&network)?.into_iter().filter_map(address));
        }
        Ok(taken)
    }

    /// The configuration that a runtime takes: the first one.
    ///
    /// # Errors
    /// When there is none that can be read.
    pub fn list(&self) -> anyhow::Result<Value> {
        let mut files = entries(&self.config)?;
        files.retain(|path| path.extension().is_some_and(|extension| extension == "conflist"));
        files.sort();
        let first = files.first();
        let first = first.with_context(|| format!("there is no *.conflist in {}", self.config.display()))?;
        serde_json::from_str(&fs::read_to_string(first)?)
            .with_context(|| format!("{} is no JSON", first.display()))
    }

    fn call(&self, command: &str, container: &Namespace, config: &Value) -> anyhow::Result<Option<Value>> {
        let name = config["type"].as_str().context("a plugin has no type")?;
        let mut found = self.plugins.iter().map(|folder| folder.join(name));
        let program = found
            .find(|path| path.is_file())
            .with_context(|| format!("the plugin {name} is in none of {:?}", self.plugins))?;
        let mut plugin = Command::new(program);
        plugin
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", container.full_name())
            .env("CNI_NETNS", container.path())
            .env("CNI_IFNAME", INTERFACE)
            .env("CNI_PATH", std::env::join_paths(&self.plugins)?)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let input = config.to_string();
        let output = self.host.enter(|| self.run(&mut plugin, &input));
        let output = output.with_context(|| format!("could not run the plugin {name}"))?;
        let (said, errors) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "{name} {command} ended with {}: {said} {errors}", output.status);
        if said.trim().is_empty() {
            return Ok(None);
        }
        match serde_json::from_str(&said) {
            Ok(result) => Ok(Some(result)),
            Err(error) => bail!("{name} {command} answered no JSON ({error}): {said}"),
        }
    }

    /// Runs on a thread that ends afterwards: it and the plugin see another `/var/lib` than everybody else.
    fn run(&self, plugin: &mut Command, input: &str) -> io::Result<Output> {
        let none = None::<&str>;
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(none, "/", none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none)?;
        mount(Some(&self.var_lib), VAR_LIB, none, MsFlags::MS_BIND, none)?;
        let mut child = plugin.spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes())?;
        }
        child.wait_with_output()
    }
}

fn plugins(list: &Value) -> anyhow::Result<&Vec<Value>> {
    list["plugins"].as_array().context("the configuration has no list of plugins")
}

/// What a plugin is told on its standard input.
fn request(list: &Value, plugin: &Value, ports: &[PublishedPort], before: Option<&Value>) -> Value {
    let mut request = plugin.clone();
    if let Some(fields) = request.as_object_mut() {
        let capabilities = fields.remove("capabilities").unwrap_or_default();
        if capabilities["portMappings"] == true && !ports.is_empty() {
            let ports = ports.iter().map(
                |port| json!({ "hostPort": port.host, "containerPort": port.container, "protocol": "tcp" }),
            );
            fields.insert("runtimeConfig".to_owned(), json!({ "portMappings": ports.collect::<Vec<_>>() }));
        }
        for key in ["name", "cniVersion"] {
            fields.insert(key.to_owned(), list[key].clone());
        }
        if let Some(before) = before {
            fields.insert("prevResult".to_owned(), before.clone());
        }
    }
    request
}

/// The paths in a folder; none if there is no such folder.
fn entries(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let read = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        read => read.with_context(|| format!("could not read {}", folder.display()))?,
    };
    read.map(|entry| Ok(entry?.path())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_is_told_its_part_the_lists_name_and_version_and_the_result_so_far() {
        let list = json!({ "cniVersion": "1.0.0", "name": "net", "disableCheck": false });
        let plugin = json!({ "type": "portmap", "snat": true, "capabilities": { "portMappings": true } });
        let before = json!({ "ips": [] });
        let ports = [PublishedPort { host: 8080, container: 80 }];
        let told = request(&list, &plugin, &ports, Some(&before));
        let expected = json!({
            "type": "portmap",
            "snat": true,
            "name": "net",
            "cniVersion": "1.0.0",
            "prevResult": { "ips": [] },
            "runtimeConfig": {
                "portMappings": [{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp" }]
            },
        });
        assert_eq!(told, expected);
        let other = request(&list, &json!({ "type": "bridge" }), &ports, None);
        assert_eq!(other, json!({ "type": "bridge", "name": "net", "cniVersion": "1.0.0" }));
    }
}
