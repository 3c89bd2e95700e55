//! What the words mean: values that are valid because they exist.

mod address;
mod network;
mod peer;
mod pool;

#[cfg(feature = "grpc")]
pub(crate) use address::parse_underlay;
pub use address::{Family, Mac, Mtu, Port, Vni, check_underlay};
pub use network::{Backend, Masquerade, Network, NetworkSpec, VxlanBackend};
pub use peer::{
    BootId, Endpoint, Epoch, InstanceId, LeaseName, Peer, Receiver, RoutedReceiver, Subnets, VxlanReceiver,
};
pub use pool::Pool;
