from html.parser import HTMLParser

import pytest

VOID = {"meta", "img"}


class Tree(HTMLParser):
    """Elements with their attributes; an element that is not closed in its turn is an error."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture
def parse():
    """Reads HTML, and fails where it is not well-formed."""
    return Tree
