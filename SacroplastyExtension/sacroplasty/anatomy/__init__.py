"""From a CT to named structures: bones, canal, foramina, alae, landmarks and the sacral frame."""
