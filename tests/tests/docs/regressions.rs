//! Every test that is named as proof is there.

use crate::markdown::{document, root};

#[test]
fn every_fault_has_a_test_that_exists() {
    let rows = document("docs/regressions.md").rows();
    assert!(rows.len() > 20, "{rows:?}");
    for row in rows {
        let [fault, _, test] = &row[..] else { panic!("not three cells: {row:?}") };
        let mut names = test.split('`').skip(1).step_by(2);
        let (Some(file), Some(name), None) = (names.next(), names.next(), names.next()) else {
            panic!("{fault}: {test:?} names no file and one test");
        };
        let text =
            std::fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        let attribute = text.split(&format!("fn {name}(")).next().filter(|before| *before != text);
        let attribute = attribute.unwrap_or_else(|| panic!("{fault}: {file} has no {name}"));
        let last = attribute.trim_end().rsplit('\n').find(|line| line.trim_start().starts_with("#["));
        assert!(last.is_some_and(|line| line.contains("test")), "{name} is no test, but {last:?}");
    }
}
