//! Stacks stored as paths of a tree, so that what they share is stored once.

use std::collections::HashMap;
use std::hash::Hash;

/// A node: the stack from the root to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u32);

/// A tree of frames. Node 0 is the empty stack.
#[derive(Debug)]
pub struct CallTree<F> {
    /// Parent and frame of each node; the entry of node 0 is never looked at.
    nodes: Vec<(NodeId, Option<F>)>,
    children: HashMap<(NodeId, F), NodeId>,
    max_nodes: usize,
}

impl<F: Copy + Eq + Hash> CallTree<F> {
    /// The empty stack.
    pub const ROOT: NodeId = NodeId(0);

    /// A tree of at most `max_nodes` nodes.
    pub fn new(max_nodes: usize) -> Self {
        Self { nodes: vec![(Self::ROOT, None)], children: HashMap::new(), max_nodes }
    }

    /// The node of `frame` called from `parent`; `None` when the tree is full and has no such node.
    pub fn child(&mut self, parent: NodeId, frame: F) -> Option<NodeId> {
        if let Some(node) = self.children.get(&(parent, frame)) {
            return Some(*node);
        }
        if self.nodes.len() >= self.max_nodes {
            return None;
        }
        let node = NodeId(u32::try_from(self.nodes.len()).ok()?);
        self.nodes.push((parent, Some(frame)));
        self.children.insert((parent, frame), node);
        Some(node)
    }

    /// The frames from `node` to the root, leaf first.
    pub fn stack(&self, node: NodeId) -> impl Iterator<Item = F> + '_ {
        let mut next = node;
        std::iter::from_fn(move || {
            let (parent, frame) = self.nodes.get(next.0 as usize)?;
            next = *parent;
            *frame
        })
    }

    /// All distinct frames' occurrences, each node once.
    pub fn frames(&self) -> impl Iterator<Item = F> + '_ {
        self.nodes.iter().filter_map(|(_, frame)| *frame)
    }

    /// Number of nodes, the root included.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether it holds the empty stack only.
    pub fn is_empty(&self) -> bool {
        self.nodes.len() == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Equal prefixes share nodes, stacks come back leaf first, a full tree says so.
    #[test]
    fn equal_prefixes_share_nodes() {
        let mut tree = CallTree::new(4);
        let main = tree.child(CallTree::<u8>::ROOT, 1).expect("room");
        let a = tree.child(main, 2).expect("room");
        let b = tree.child(main, 3).expect("room");
        assert_eq!(tree.child(main, 2), Some(a));
        assert_eq!(tree.stack(a).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(tree.stack(b).collect::<Vec<_>>(), [3, 1]);
        assert_eq!(tree.stack(CallTree::<u8>::ROOT).count(), 0);
        assert_eq!(tree.child(b, 9), None);
    }
}
