//! Supervised external worker processes that never leave an orphan.
