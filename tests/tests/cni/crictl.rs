//! crictl, the operator's own tool for the Container Runtime Interface; `make tools` builds it where there is Go.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use loden_tests::cni::PublishedPort;
use serde_json::{Value, json};

use crate::cell::Cell;
use crate::image;

/// crictl for the runtime of one cell.
pub(crate) struct Crictl<'a> {
    program: PathBuf,
    cell: &'a Cell,
    home: &'a Path,
}

impl<'a> Crictl<'a> {
    /// For the runtime whose socket is in `home`; `None` where crictl was not built.
    pub(crate) fn built(cell: &'a Cell, home: &'a Path) -> Option<Self> {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/bin/crictl");
        program.is_file().then_some(Self { program, cell, home })
    }

    fn run(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let program = self.program.to_str().context("a path is no text")?;
        let endpoint = format!("unix://{}", self.home.join("containerd.sock").display());
        let endpoint =
            ["--config", "/dev/null", "--runtime-endpoint", &endpoint, "--image-endpoint", &endpoint];
        self.cell.run(program, &[&endpoint[..], arguments].concat())
    }

    /// Starts a pod with one container that runs a shell command; answers the container.
    pub(crate) fn start(
        &self,
        name: &str,
        cgroup: &str,
        ports: &[PublishedPort],
        command: &str,
    ) -> anyhow::Result<String> {
        let ports: Vec<Value> = ports
            .iter()
            .map(|port| json!({ "container_port": port.container, "host_port": port.host }))
            .collect();
        let pod = json!({
            "metadata": { "name": name, "uid": name, "namespace": "default" },
            "hostname": name,
            "log_directory": "/run/pod-logs",
            "port_mappings": ports,
            "linux": { "cgroup_parent": format!("/{cgroup}") },
        });
        let container = json!({
            "metadata": { "name": name },
            "image": { "image": image::NAME },
            "command": ["sh", "-c", command],
            "log_path": format!("{name}.log"),
        });
        let files = [self.home.join("container.json"), self.home.join("pod.json")];
        for (file, content) in files.iter().zip([container, pod]) {
            fs::write(file, content.to_string())?;
        }
        let [container, pod] = [0, 1].map(|index| files[index].to_str().unwrap_or_default());
        Ok(self.run(&["run", "--no-pull", container, pod])?.trim().to_owned())
    }

    /// Runs a shell command in a container; answers what it printed.
    pub(crate) fn shell(&self, container: &str, command: &str) -> anyhow::Result<String> {
        self.run(&["exec", "--sync", container, "sh", "-c", command])
    }

    /// What `crictl pods` shows of the pod with this name: its id and its state.
    pub(crate) fn pod(&self, name: &str) -> anyhow::Result<(String, String)> {
        let shown: Value = serde_json::from_str(&self.run(&["pods", "--name", name, "-o", "json"])?)?;
        let pod = &shown["items"][0];
        let field =
            |key: &str| pod[key].as_str().map(str::to_owned).with_context(|| format!("no {key}: {shown}"));
        Ok((field("id")?, field("state")?))
    }

    /// Stops a pod and forgets it.
    pub(crate) fn remove(&self, pod: &str) -> anyhow::Result<()> {
        for verb in ["stopp", "rmp"] {
            self.run(&[verb, pod])?;
        }
        Ok(())
    }
}
