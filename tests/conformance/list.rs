//! What a list is, of requirements or of features, and which there are.

use crate::{features, nat};

/// All lists, in the order of the page.
pub(crate) const LISTS: &[List] = &[nat::LIST, features::LIST];

pub(crate) struct List {
    pub(crate) title: &'static str,
    pub(crate) intro: &'static str,
    /// What the columns of its tables are called.
    pub(crate) columns: [&'static str; 4],
    pub(crate) sections: &'static [Section],
}

pub(crate) struct Section {
    pub(crate) title: &'static str,
    pub(crate) rows: &'static [Row],
}

/// A requirement or a feature.
pub(crate) struct Row {
    /// Unique among all lists, without blanks: what a marker names.
    pub(crate) id: &'static str,
    /// What it asks for or offers, in a line.
    pub(crate) says: &'static str,
    /// Why there is no test, or what to know about those there are.
    pub(crate) remark: Option<&'static str>,
}

pub(crate) const fn row(id: &'static str, says: &'static str) -> Row {
    Row {
        id,
        says,
        remark: None,
    }
}

impl List {
    pub(crate) fn rows(&self) -> impl Iterator<Item = &'static Row> {
        self.sections.iter().flat_map(|section| section.rows)
    }
}

impl Row {
    pub(crate) const fn remark(mut self, remark: &'static str) -> Row {
        self.remark = Some(remark);
        self
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_are_unique_and_cells_are_cells() {
        let mut seen = HashSet::new();
        for row in LISTS.iter().flat_map(List::rows) {
            assert!(seen.insert(row.id), "{} is there twice", row.id);
            assert!(!row.id.contains(char::is_whitespace), "{:?}", row.id);
            for cell in [row.id, row.says, row.remark.unwrap_or_default()] {
                assert!(!cell.contains(['|', '\n']), "{}: {cell:?}", row.id);
            }
        }
    }
}
