//! What was once wrong, as the random test found it.
