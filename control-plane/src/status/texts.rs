//! The texts of a report, which operators read at their terminals.

use loden_proto::text;
use loden_proto::{InvalidValue, v1};

/// That none of them steers a terminal.
pub(crate) fn check(report: &v1::ReportStatusRequest) -> Result<(), InvalidValue> {
    text::check(&report.version).map_err(|invalid| invalid.at("version"))?;
    text::check(&report.not_ready_reason).map_err(|invalid| invalid.at("not_ready_reason"))?;
    for (index, warning) in report.warnings.iter().enumerate() {
        text::check(warning).map_err(|invalid| invalid.at(format!("warnings[{index}]")))?;
    }
    for (index, failure) in report.failures.iter().enumerate() {
        let at = |field: &'static str| {
            move |invalid: InvalidValue| invalid.at(field).at(format!("failures[{index}]"))
        };
        text::check(&failure.node).map_err(at("node"))?;
        text::check(&failure.message).map_err(at("message"))?;
    }
    Ok(())
}
