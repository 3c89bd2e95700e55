//! What the words mean: values that are valid because they exist.

mod address;
mod key;
mod network;
mod peer;
mod pool;
mod token;

#[cfg(feature = "grpc")]
pub(crate) use address::parse_underlay;
pub use address::{Family, Mac, Mtu, Port, Vni, check_underlay};
pub use key::Key;
pub use network::{Backend, DeviceOffload, Masquerade, Network, NetworkSpec, UdpBackend, VxlanBackend};
pub use peer::{
    BootId, Endpoint, Epoch, InstanceId, LeaseName, Peer, Receiver, RoutedReceiver, Subnets, UdpReceiver,
    VxlanReceiver,
};
pub use pool::Pool;
pub use token::{JoinToken, RootHash, Secret, TokenId};
