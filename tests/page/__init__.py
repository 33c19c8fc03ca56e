"""Tests of the page in a browser. A package, so that its Chromium, whose loop fills the thread, ends with its last test."""
