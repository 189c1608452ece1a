//! A directed graph of modules, its circles and its levels.

use std::collections::{BTreeMap, BTreeSet};

/// For each module, the modules that it uses.
#[derive(Default)]
pub(crate) struct Graph(BTreeMap<String, BTreeSet<String>>);

impl Graph {
    pub(crate) fn add(&mut self, module: &str) {
        self.0.entry(module.to_owned()).or_default();
    }

    pub(crate) fn connect(&mut self, user: &str, used: &str) {
        self.add(used);
        self.0.entry(user.to_owned()).or_default().insert(used.to_owned());
    }

    /// All pairs of a user and a used module.
    pub(crate) fn edges(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().flat_map(|(user, all)| all.iter().map(move |used| (user.as_str(), used.as_str())))
    }

    /// The graph without the edges between a module and those that contain it.
    pub(crate) fn without_ancestors(&self) -> Self {
        let mut graph = Self::default();
        self.0.keys().for_each(|module| graph.add(module));
        for (user, used) in self.edges().filter(|(user, used)| !contains(user, used) && !contains(used, user)) {
            graph.connect(user, used);
        }
        graph
    }

    /// The strongly connected components: each module is in one, with all that it uses and that use it, directly or not.
    pub(crate) fn components(&self) -> BTreeSet<BTreeSet<&str>> {
        let reached: BTreeMap<_, _> =
            self.0.keys().map(|module| (module.as_str(), self.reached_from(module))).collect();
        let component =
            |module: &'_ str| reached[module].iter().copied().filter(|other| reached[other].contains(module)).collect();
        self.0.keys().map(|module| component(module)).collect()
    }

    /// The module itself, and all that it uses, directly or not.
    fn reached_from<'a>(&'a self, module: &'a str) -> BTreeSet<&'a str> {
        let mut reached = BTreeSet::new();
        let mut open = vec![module];
        while let Some(module) = open.pop() {
            if reached.insert(module) {
                open.extend(self.0[module].iter().map(String::as_str));
            }
        }
        reached
    }

    /// The number of modules on the longest path; a circle counts as one module.
    pub(crate) fn levels(&self) -> usize {
        let components: Vec<_> = self.components().into_iter().collect();
        let position: BTreeMap<&str, usize> =
            components.iter().enumerate().flat_map(|(at, all)| all.iter().map(move |module| (*module, at))).collect();
        let mut levels = vec![1; components.len()];
        // Each round corrects at least one more level of each path, from the bottom.
        for _ in 0..components.len() {
            for (user, used) in self.edges().map(|(user, used)| (position[user], position[used])) {
                if user != used {
                    levels[user] = levels[user].max(levels[used] + 1);
                }
            }
        }
        levels.into_iter().max().unwrap_or(0)
    }
}

/// Whether a module, or the folder of that name, contains another one, or is the same.
pub(crate) fn contains(outer: &str, inner: &str) -> bool {
    inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn circles_and_levels_are_found() {
        let mut graph = Graph::default();
        for (user, used) in [("a", "b"), ("b", "c"), ("c", "b"), ("c", "d"), ("d", "d::e"), ("d::e", "d")] {
            graph.connect(user, used);
        }
        let circles = |graph: &Graph| graph.components().into_iter().filter(|all| all.len() > 1).count();
        assert_eq!((circles(&graph), graph.levels()), (2, 3));
        assert_eq!((circles(&graph.without_ancestors()), graph.without_ancestors().levels()), (1, 3));
    }
}
