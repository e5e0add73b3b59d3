//! The removals of nodes that run on this netmaster.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};

use bus_schema::NodeName;

/// The removals that this netmaster works on.
#[derive(Debug, Default)]
pub(super) struct Removals(RefCell<Vec<Weak<UnderWay>>>);

#[derive(Debug)]
pub(super) struct UnderWay {
    node: NodeName,
    pub(super) operator_drained: Cell<bool>,
}

impl Removals {
    /// Begins a removal, which is under way until the returned value is dropped.
    pub(super) fn begin(&self, node: &NodeName) -> Rc<UnderWay> {
        let removal = Rc::new(UnderWay {
            node: node.clone(),
            operator_drained: Cell::new(false),
        });
        let mut all = self.0.borrow_mut();
        all.retain(|removal| removal.strong_count() > 0);
        all.push(Rc::downgrade(&removal));
        removal
    }

    /// Notes that an operator drains the node. A refused removal takes back its own drain, not an
    /// operator's, which changes nothing where the removal has drained the node already.
    pub(super) fn operator_drains(&self, node: &NodeName) {
        let all = self.0.borrow();
        for removal in all.iter().filter_map(Weak::upgrade) {
            if removal.node == *node {
                removal.operator_drained.set(true);
            }
        }
    }
}
