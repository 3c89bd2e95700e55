//! The table of roles in `security.md` is the one in the code.

use loden_control_plane::service::access::{Access, Rpc, rule};
use loden_transport::SpiffeId;

use crate::markdown::{code, document};

#[test]
fn the_table_of_roles_is_the_one_that_every_call_passes() {
    let rows = document("docs/security.md").section("## Roles").rows();
    let name = |rpc: &Rpc| if *rpc == Rpc::Reflection { "Reflection" } else { rpc.method() };
    assert_eq!(rows.len(), Rpc::ALL.len());
    for row in &rows {
        let rpc = Rpc::ALL.into_iter().find(|rpc| name(rpc) == code(&row[0]));
        let rpc = rpc.unwrap_or_else(|| panic!("{row:?} is no call of ours"));
        for (role, cell) in ["node", "admin", "reader"].into_iter().zip(&row[1..]) {
            let id: SpiffeId = format!("spiffe://loden/{role}/one").parse().unwrap();
            let access = match rule(rpc, &id.role) {
                Access::Any => "any",
                Access::Never => "never",
                Access::Own => "own",
            };
            assert_eq!(cell, access, "{rpc:?} by {role}");
        }
    }
}
