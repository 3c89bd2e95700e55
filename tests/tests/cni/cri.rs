//! The part of the Container Runtime Interface (runtime.v1) that pods are started and stopped by: what kubelet and
//! crictl speak to containerd.

use std::path::Path;

use anyhow::{Context, ensure};
use http::uri::PathAndQuery;
use loden_tests::cni::PublishedPort;
use prost::Message;
use tonic::transport::{Channel, Endpoint};

/// Everything is in one of these, in seconds: pods start at once or not at all.
const EXEC_TIMEOUT: i64 = 15;

#[derive(Clone, PartialEq, Message)]
struct Empty {}

#[derive(Clone, PartialEq, Message)]
struct StatusResponse {
    #[prost(message, tag = "1")]
    status: Option<RuntimeStatus>,
}

#[derive(Clone, PartialEq, Message)]
struct RuntimeStatus {
    #[prost(message, repeated, tag = "1")]
    conditions: Vec<Condition>,
}

#[derive(Clone, PartialEq, Message)]
struct Condition {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(bool, tag = "2")]
    status: bool,
    #[prost(string, tag = "4")]
    message: String,
}

#[derive(Clone, PartialEq, Message)]
struct PodMetadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    uid: String,
    #[prost(string, tag = "3")]
    namespace: String,
}

#[derive(Clone, PartialEq, Message)]
struct PortMapping {
    #[prost(int32, tag = "2")]
    container_port: i32,
    #[prost(int32, tag = "3")]
    host_port: i32,
}

#[derive(Clone, PartialEq, Message)]
struct LinuxPod {
    #[prost(string, tag = "1")]
    cgroup_parent: String,
}

#[derive(Clone, PartialEq, Message)]
struct PodConfig {
    #[prost(message, tag = "1")]
    metadata: Option<PodMetadata>,
    #[prost(string, tag = "2")]
    hostname: String,
    #[prost(string, tag = "3")]
    log_directory: String,
    #[prost(message, repeated, tag = "5")]
    port_mappings: Vec<PortMapping>,
    #[prost(message, tag = "8")]
    linux: Option<LinuxPod>,
}

#[derive(Clone, PartialEq, Message)]
struct RunPodRequest {
    #[prost(message, tag = "1")]
    config: Option<PodConfig>,
}

/// Of several calls: an id is all that is asked or answered.
#[derive(Clone, PartialEq, Message)]
struct Id {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(Clone, PartialEq, Message)]
struct PodStatusResponse {
    #[prost(message, tag = "1")]
    status: Option<PodStatus>,
}

#[derive(Clone, PartialEq, Message)]
struct PodStatus {
    /// 0 is ready.
    #[prost(int32, tag = "3")]
    state: i32,
    #[prost(message, tag = "5")]
    network: Option<PodNetwork>,
}

#[derive(Clone, PartialEq, Message)]
struct PodNetwork {
    #[prost(string, tag = "1")]
    ip: String,
    #[prost(message, repeated, tag = "2")]
    additional: Vec<PodIp>,
}

#[derive(Clone, PartialEq, Message)]
struct PodIp {
    #[prost(string, tag = "1")]
    ip: String,
}

#[derive(Clone, PartialEq, Message)]
struct Named {
    #[prost(string, tag = "1")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerConfig {
    #[prost(message, tag = "1")]
    metadata: Option<Named>,
    #[prost(message, tag = "2")]
    image: Option<Named>,
    #[prost(string, repeated, tag = "3")]
    command: Vec<String>,
    #[prost(string, tag = "11")]
    log_path: String,
}

#[derive(Clone, PartialEq, Message)]
struct CreateContainerRequest {
    #[prost(string, tag = "1")]
    pod: String,
    #[prost(message, tag = "2")]
    config: Option<ContainerConfig>,
    #[prost(message, tag = "3")]
    pod_config: Option<PodConfig>,
}

#[derive(Clone, PartialEq, Message)]
struct ExecRequest {
    #[prost(string, tag = "1")]
    container: String,
    #[prost(string, repeated, tag = "2")]
    command: Vec<String>,
    #[prost(int64, tag = "3")]
    timeout: i64,
}

#[derive(Clone, PartialEq, Message)]
struct ExecResponse {
    #[prost(bytes = "vec", tag = "1")]
    stdout: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    stderr: Vec<u8>,
    #[prost(int32, tag = "3")]
    exit_code: i32,
}

/// A pod that runs one container.
#[derive(Debug)]
pub(crate) struct Pod {
    id: String,
    container: String,
}

/// A runtime behind its socket; connects again by itself.
#[derive(Clone, Debug)]
pub(crate) struct Cri(Channel);

impl Cri {
    pub(crate) fn at(socket: &Path) -> anyhow::Result<Self> {
        Ok(Self(Endpoint::from_shared(format!("unix://{}", socket.display()))?.connect_lazy()))
    }

    /// Whether the runtime would start pods, and what it says of its network.
    pub(crate) async fn network(&self) -> anyhow::Result<(bool, String)> {
        let response: StatusResponse = self.call("Status", Empty {}).await?;
        let conditions = response.status.context("the runtime has no status")?.conditions;
        let network = conditions.into_iter().find(|condition| condition.kind == "NetworkReady");
        let network = network.context("the runtime says nothing of its network")?;
        Ok((network.status, network.message))
    }

    /// Starts a pod with one container that runs a command.
    pub(crate) async fn start(
        &self,
        name: &str,
        cgroup: &str,
        ports: &[PublishedPort],
        image: &str,
        command: &[&str],
    ) -> anyhow::Result<Pod> {
        let metadata = PodMetadata { name: name.into(), uid: name.into(), namespace: "default".into() };
        let port_mappings = ports
            .iter()
            .map(|port| PortMapping { container_port: port.container.into(), host_port: port.host.into() });
        let pod_config = PodConfig {
            metadata: Some(metadata),
            hostname: name.into(),
            log_directory: "/run/pod-logs".into(),
            port_mappings: port_mappings.collect(),
            linux: Some(LinuxPod { cgroup_parent: format!("/{cgroup}") }),
        };
        let request = RunPodRequest { config: Some(pod_config.clone()) };
        let Id { id } = self.call("RunPodSandbox", request).await?;
        let config = ContainerConfig {
            metadata: Some(Named { name: name.into() }),
            image: Some(Named { name: image.into() }),
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            log_path: format!("{name}.log"),
        };
        let request =
            CreateContainerRequest { pod: id.clone(), config: Some(config), pod_config: Some(pod_config) };
        let created: Id = self.call("CreateContainer", request).await?;
        let _: Empty = self.call("StartContainer", created.clone()).await?;
        Ok(Pod { id, container: created.id })
    }

    /// The addresses of a pod that runs.
    pub(crate) async fn addresses(&self, pod: &Pod) -> anyhow::Result<Vec<std::net::IpAddr>> {
        let response: PodStatusResponse = self.call("PodSandboxStatus", Id { id: pod.id.clone() }).await?;
        let status = response.status.context("the pod has no status")?;
        ensure!(status.state == 0, "the pod is not ready");
        let network = status.network.context("the pod has no network")?;
        let ips = std::iter::once(network.ip).chain(network.additional.into_iter().map(|ip| ip.ip));
        Ok(ips.map(|ip| ip.parse()).collect::<Result<_, _>>()?)
    }

    /// Runs a shell command in a pod's container and answers what it printed.
    pub(crate) async fn shell(&self, pod: &Pod, command: &str) -> anyhow::Result<String> {
        let request = ExecRequest {
            container: pod.container.clone(),
            command: ["sh", "-c", command].map(str::to_owned).to_vec(),
            timeout: EXEC_TIMEOUT,
        };
        let response: ExecResponse = self.call("ExecSync", request).await?;
        let (said, errors) =
            (String::from_utf8_lossy(&response.stdout), String::from_utf8_lossy(&response.stderr));
        ensure!(response.exit_code == 0, "{command} ended with {}: {said} {errors}", response.exit_code);
        Ok(said.into_owned())
    }

    /// Stops a pod and forgets it.
    pub(crate) async fn remove(&self, pod: &Pod) -> anyhow::Result<()> {
        for method in ["StopPodSandbox", "RemovePodSandbox"] {
            let _: Empty = self.call(method, Id { id: pod.id.clone() }).await?;
        }
        Ok(())
    }

    async fn call<Q, A>(&self, method: &'static str, request: Q) -> anyhow::Result<A>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let path = PathAndQuery::try_from(format!("/runtime.v1.RuntimeService/{method}"))?;
        let mut client = tonic::client::Grpc::new(self.0.clone());
        client.ready().await.with_context(|| format!("{method}: the runtime is away"))?;
        let codec = tonic_prost::ProstCodec::<Q, A>::default();
        let response = client.unary(tonic::Request::new(request), path, codec).await;
        Ok(response.with_context(|| format!("{method} was refused"))?.into_inner())
    }
}
