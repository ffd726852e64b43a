//! keyhatch
