//! Every refusal, with the words in which it is told.

mod leases;
mod networks;
mod requests;

use loden_proto::model::{Backend, NetworkSpec, Port, UdpBackend, VxlanBackend};

use super::Command;
use super::testing::{Rig, acquire_at, network, spec, with_vtep};

/// `blue` 10.1.0.0/22 with VNI 1 and leases of a (active), b (held); `gold`, deleted, had VNI 2.
fn rig() -> Rig {
    let mut rig = Rig::new();
    rig.must(network("blue", &["10.1.0.0/22"]));
    rig.must(network("gold", &["10.2.0.0/22"]));
    rig.must(Command::DeleteNetwork { id: "gold".parse().unwrap(), force: false });
    rig.must(acquire_at("blue", "a", 1, with_vtep(1, 1)));
    rig.must(acquire_at("blue", "b", 1, with_vtep(2, 1)));
    rig.expire("blue", "b");
    rig
}

fn create(change: impl FnOnce(&mut NetworkSpec)) -> Command {
    let mut spec = spec("red", &["10.9.0.0/16"]);
    change(&mut spec);
    Command::CreateNetwork { spec, request_id: None }
}

fn told(command: Command) -> String {
    let mut rig = rig();
    rig.pass(60);
    rig.refused(command).to_string()
}

fn udp(port: u32) -> Backend {
    Backend::Udp(UdpBackend { port: Port::try_from(port).unwrap(), ..UdpBackend::default() })
}

fn vxlan(port: u32, gbp: bool) -> Backend {
    Backend::Vxlan(VxlanBackend {
        port: Port::try_from(port).unwrap(),
        learning: false,
        gbp,
        direct_routing: false,
    })
}
